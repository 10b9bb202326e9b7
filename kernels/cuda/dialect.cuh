// The words of the Metal bodies in CUDA, so that MLX compiles ../metal/*.metal for NVIDIA GPUs as they
// stand: a simdgroup is a warp, a threadgroup a block. MLX's own device headers come before this.

#define device
#define constant
#define threadgroup __shared__

#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define thread_position_in_grid \
  (make_uint3( \
      blockIdx.x * blockDim.x + threadIdx.x, \
      blockIdx.y * blockDim.y + threadIdx.y, \
      blockIdx.z * blockDim.z + threadIdx.z))

enum class mem_flags { mem_device, mem_threadgroup };

METAL_FUNC void threadgroup_barrier(mem_flags) {
  __syncthreads();
}

METAL_FUNC void simdgroup_barrier(mem_flags) {
  __syncwarp();
}

METAL_FUNC float simd_sum(float v) {
  for (int distance = 16; distance > 0; distance /= 2) {
    v += __shfl_xor_sync(0xffffffffu, v, distance);
  }
  return v;
}

template <typename V>
METAL_FUNC V simd_shuffle_xor(V v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}

METAL_FUNC int clamp(int v, int low, int high) {
  return min(max(v, low), high);
}

template <typename To, typename From>
METAL_FUNC To as_type(From v) {
  return __builtin_bit_cast(To, v);
}

// The packs of functions.metal: one load or store of 4, 8 or 16 bytes. An array may begin anywhere, as a
// slice of another one does; one that does not begin with a whole pack is moved element by element.
#define LLAMBA_PACKS

template <int bytes>
struct llamba_word;
template <>
struct llamba_word<2> {
  using type = unsigned short;
};
template <>
struct llamba_word<4> {
  using type = unsigned;
};
template <>
struct llamba_word<8> {
  using type = uint2;
};
template <>
struct llamba_word<16> {
  using type = uint4;
};

template <typename T, int n>
struct llamba_pack {
  T elements[n];
};

template <int n, typename T>
METAL_FUNC void read_pack(const T* from, long at, float (&to)[n]) {
  using Pack = llamba_pack<T, n>;
  using Word = typename llamba_word<n * sizeof(T)>::type;
  Pack pack;
  if (reinterpret_cast<unsigned long long>(from + at) % sizeof(Word) == 0) {
    pack = __builtin_bit_cast(Pack, *reinterpret_cast<const Word*>(from + at));
  } else {
    UNROLL
    for (int i = 0; i < n; ++i) {
      pack.elements[i] = from[at + i];
    }
  }
  UNROLL
  for (int i = 0; i < n; ++i) {
    to[i] = float(pack.elements[i]);
  }
}

template <typename T, int n>
METAL_FUNC void write_pack(T* to, long at, const float (&from)[n]) {
  using Pack = llamba_pack<T, n>;
  using Word = typename llamba_word<n * sizeof(T)>::type;
  Pack pack;
  UNROLL
  for (int i = 0; i < n; ++i) {
    pack.elements[i] = T(from[i]);
  }
  // Outputs begin with whole packs.
  *reinterpret_cast<Word*>(to + at) = __builtin_bit_cast(Word, pack);
}

// A lane's place in an 8x8 matrix, column first.
struct llamba_short2 {
  short x;
  short y;
  __device__ llamba_short2(int column, int row) : x(short(column)), y(short(row)) {}
};
#define short2 llamba_short2

// An 8x8 matrix over the lanes of a warp in the layout that ../metal/fragments.metal states: two
// neighbours of a row each.
struct simdgroup_float8x8 {
  float2 pair;
  __device__ float* thread_elements() {
    return &pair.x;
  }
};

// d = a b + c, in the order of k. Elements travel by shuffles: right, and far from the speed of
// tensor cores, which is what mixer_scan.cu is for.
METAL_FUNC void simdgroup_multiply_accumulate(
    simdgroup_float8x8& d, simdgroup_float8x8 a, simdgroup_float8x8 b, simdgroup_float8x8 c) {
  const int lane = threadIdx.x & 31;
  const int quad = lane / 4;
  const int row = (quad & 4) + (lane / 2) % 4;
  const int column = (quad & 2) * 2 + (lane % 2) * 2;
  float left = c.pair.x;
  float right = c.pair.y;
  UNROLL
  for (int k = 0; k < 8; ++k) {
    // The lanes that hold a(row, k) and b(k, column).
    const int of_a = (row & 4) * 4 + (row & 3) * 2 + (k & 4) * 2 + ((k >> 1) & 1);
    const int of_b = (k & 4) * 4 + (k & 3) * 2 + (column & 4) * 2 + ((column >> 1) & 1);
    const float x = __shfl_sync(0xffffffffu, k % 2 ? a.pair.y : a.pair.x, of_a);
    left = fmaf(x, __shfl_sync(0xffffffffu, b.pair.x, of_b), left);
    right = fmaf(x, __shfl_sync(0xffffffffu, b.pair.y, of_b), right);
  }
  d.pair = make_float2(left, right);
}
