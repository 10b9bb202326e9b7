// Codes of 4 bits as operands of tensor cores. A word has eight neighbours in k; a mask takes two of
// them at a time, (0, 4), (1, 5), (2, 6) and (3, 7), and so do the activations that they meet.

// Operands for activations of type T: themselves, or three bfloat16 whose sum is a float32.
template <typename T>
struct Operand {
  using type = T;
  static constexpr int parts = 1;
};
template <>
struct Operand<float> {
  using type = __nv_bfloat16;
  static constexpr int parts = 3;
};

// The type of an array's elements.
template <typename T>
struct Pointed;
template <typename T>
struct Pointed<const T*> {
  using type = T;
};

// The bits of 1.0 twice, and of the number whose last place is 1 twice: with a code in its last bits it
// is `offset` + code.
static __device__ __forceinline__ constexpr unsigned ones_of(__nv_bfloat16) { return 0x3f803f80u; }
static __device__ __forceinline__ constexpr unsigned ones_of(__half) { return 0x3c003c00u; }
static __device__ __forceinline__ constexpr unsigned base_of(__nv_bfloat16) { return 0x43004300u; }
static __device__ __forceinline__ constexpr unsigned base_of(__half) { return 0x64006400u; }
static __device__ __forceinline__ constexpr float offset_of(__nv_bfloat16) { return 128.0f; }
static __device__ __forceinline__ constexpr float offset_of(__half) { return 1024.0f; }

// Two codes plus the offset: a mask and an "or" in one instruction, which takes one constant only.
template <typename E>
static __device__ __forceinline__ unsigned raised(E, unsigned word) {
  unsigned pair;
  asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(pair) : "r"(word), "r"(base_of(E())));
  return pair;
}

// Without the offset: exact.
static __device__ __forceinline__ unsigned lowered(__nv_bfloat16, unsigned pair) {
  const unsigned base = base_of(__nv_bfloat16());
  const __nv_bfloat162 result = __hsub2(
      reinterpret_cast<const __nv_bfloat162&>(pair), reinterpret_cast<const __nv_bfloat162&>(base));
  return reinterpret_cast<const unsigned&>(result);
}

static __device__ __forceinline__ unsigned lowered(__half, unsigned pair) {
  const unsigned base = base_of(__half());
  const __half2 result = __hsub2(
      reinterpret_cast<const __half2&>(pair), reinterpret_cast<const __half2&>(base));
  return reinterpret_cast<const unsigned&>(result);
}

// code * scale + bias of two codes, rounded once.
static __device__ __forceinline__ unsigned scaled(
    __nv_bfloat16, unsigned codes, unsigned scale, unsigned bias) {
  const __nv_bfloat162 result = __hfma2(
      reinterpret_cast<const __nv_bfloat162&>(codes), reinterpret_cast<const __nv_bfloat162&>(scale),
      reinterpret_cast<const __nv_bfloat162&>(bias));
  return reinterpret_cast<const unsigned&>(result);
}

static __device__ __forceinline__ unsigned scaled(
    __half, unsigned codes, unsigned scale, unsigned bias) {
  const __half2 result = __hfma2(
      reinterpret_cast<const __half2&>(codes), reinterpret_cast<const __half2&>(scale),
      reinterpret_cast<const __half2&>(bias));
  return reinterpret_cast<const unsigned&>(result);
}

// Eight neighbours in the order of the masks.
static __device__ __forceinline__ void in_mask_order(unsigned (&pairs)[4], const uint4& v) {
  pairs[0] = __byte_perm(v.x, v.z, 0x5410);
  pairs[1] = __byte_perm(v.x, v.z, 0x7632);
  pairs[2] = __byte_perm(v.y, v.w, 0x5410);
  pairs[3] = __byte_perm(v.y, v.w, 0x7632);
}

// Eight activations in this order; `part` chooses the summand of a float32.
template <typename T>
static __device__ __forceinline__ void load_pairs(unsigned (&pairs)[4], const T* at, int) {
  in_mask_order(pairs, *reinterpret_cast<const uint4*>(at));
}

static __device__ __forceinline__ void load_pairs(unsigned (&pairs)[4], const float* at, int part) {
  const float4 low = reinterpret_cast<const float4*>(at)[0];
  const float4 high = reinterpret_cast<const float4*>(at)[1];
  const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  UNROLL
  for (int i = 0; i < 4; ++i) {
    float pair[2] = {v[i], v[i + 4]};
    UNROLL
    for (int side = 0; side < 2; ++side) {
      const float rest = pair[side] - float(__nv_bfloat16(pair[side]));
      const float last = rest - float(__nv_bfloat16(rest));
      pair[side] = part == 0 ? pair[side] : part == 1 ? rest : last;
    }
    pairs[i] = pair_of(__nv_bfloat16(), pair[0], pair[1]);
  }
}

// `count` neighbours of an array, as floats.
template <int count, typename S>
static __device__ __forceinline__ void load_floats(float (&to)[count], const S* at) {
  struct __align__(count * sizeof(S)) Pack {
    S values[count];
  };
  const Pack pack = *reinterpret_cast<const Pack*>(at);
  UNROLL
  for (int i = 0; i < count; ++i) {
    to[i] = float(pack.values[i]);
  }
}

// `count` neighbouring words.
template <int count>
static __device__ __forceinline__ void load_words(unsigned (&to)[count], const unsigned* at) {
  struct __align__(count * 4) Pack {
    unsigned values[count];
  };
  const Pack pack = *reinterpret_cast<const Pack*>(at);
  UNROLL
  for (int i = 0; i < count; ++i) {
    to[i] = pack.values[i];
  }
}

// Eight neighbours of x times their weights, each rounded once; adds the squares of x.
template <typename E>
static __device__ __forceinline__ uint4 weighted(E, uint4 x, const uint4& weights, float& squares) {
  unsigned* const pairs = &x.x;
  const unsigned* const by = &weights.x;
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const float2 v = floats_of(E(), pairs[i]);
    const float2 w = floats_of(E(), by[i]);
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, squares));
    pairs[i] = pair_of(E(), v.x * w.x, v.y * w.y);
  }
  return x;
}
