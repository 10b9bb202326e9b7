// Tensor core products of a warp, 16 x 8 results. Lane `4 g + t` holds of a result the columns 2t and
// 2t + 1 of the rows g and g + 8, in this order; see "Matrix fragments for mma" in NVIDIA's PTX manual.

// Two neighbours of a row of 16-bit floats.
template <typename T>
static __device__ __forceinline__ unsigned pair_at(const T* at) {
  return *reinterpret_cast<const unsigned*>(at);
}

static __device__ __forceinline__ float2 floats_of(__nv_bfloat16, unsigned pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

static __device__ __forceinline__ float2 floats_of(__half, unsigned pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

static __device__ __forceinline__ unsigned pair_of(__nv_bfloat16, float left, float right) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(left, right);
  return reinterpret_cast<const unsigned&>(pair);
}

static __device__ __forceinline__ unsigned pair_of(__half, float left, float right) {
  const __half2 pair = __floats2half2_rn(left, right);
  return reinterpret_cast<const unsigned&>(pair);
}

// The nearest float with 10 bits of mantissa, as its bits.
static __device__ __forceinline__ unsigned tf32(float v) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

// c (16, 8) += a (16, 16) b (16, 8) of 16-bit floats: exact products, sums in float32.
static __device__ __forceinline__ void mma16(
    __nv_bfloat16, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma16(
    __half, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c (16, 8) += a (16, 8) b (8, 8) of floats with 10 bits of mantissa, sums in float32. The order of k
// is free as long as both sides agree: here a lane holds k = 2t and 2t + 1, which are neighbours both
// in a result of `mma16` and in memory. a: rows g and g + 8 at k = 2t, then both at k = 2t + 1.
static __device__ __forceinline__ void mma8(
    float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from device to shared memory, in the background; zeros unless `real`.
static __device__ __forceinline__ void copy16(void* to, const void* from, bool real) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

static __device__ __forceinline__ void copies_arrived() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// The same for 4 or 8 bytes.
template <int bytes>
static __device__ __forceinline__ void copy_small(void* to, const void* from) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(bytes));
}

// Ends a group of copies. All but the last `pending` groups have arrived after the second.
static __device__ __forceinline__ void copies_end() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending>
static __device__ __forceinline__ void copies_arrived() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
