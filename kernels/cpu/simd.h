// One vector of float32 lanes, as wide as the target's registers.
//
// Compute sources that include this header are compiled once per instruction set, each time with
// SIMD_LEVEL set to another name, and one of them is chosen at run time. They must not include
// anything of the C++ library that has inline code: the linker keeps one copy of such code, which
// might use instructions that the machine lacks.
//
// Every multiply-add is a call of `fma`, never `a * b + c`: a compiler that may contract the latter
// may do so in one copy of a loop and not in another, and results would depend on how loops are split.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef SIMD_LEVEL
#define SIMD_LEVEL baseline
#endif

#if defined(__AVX512F__)
#define SIMD_AVX512
#endif
#if defined(__AVX2__) && (defined(__FMA__) || defined(__AVX512F__))
#define SIMD_AVX2
#endif

#define INLINE static inline __attribute__((always_inline))

namespace mlx_llamba::SIMD_LEVEL {

#if defined(SIMD_AVX512)
constexpr int LANES = 16;
#elif defined(SIMD_AVX2)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float Four __attribute__((vector_size(16)));

INLINE Floats broadcast(float value) {
#if defined(SIMD_AVX512)
  return _mm512_set1_ps(value);
#elif defined(SIMD_AVX2)
  return _mm256_set1_ps(value);
#else
  return Floats{value, value, value, value};
#endif
}

INLINE Ints broadcast_int(int32_t value) {
  return value - Ints{};
}

// Neither load nor store needs alignment.
INLINE Floats load(const float* from) {
  typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  return *reinterpret_cast<const Unaligned*>(from);
}

INLINE void store(float* to, Floats value) {
  typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  *reinterpret_cast<Unaligned*>(to) = value;
}

#if defined(SIMD_AVX2) && !defined(SIMD_AVX512)
INLINE __m256i first_lanes(int count) {
  return (__m256i)(Ints{0, 1, 2, 3, 4, 5, 6, 7} < broadcast_int(count));
}
#endif

// Loads the first `count` lanes, 0 < count <= LANES; the others are zero. Reads nothing after them.
INLINE Floats load(const float* from, int count) {
#if defined(SIMD_AVX512)
  return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#elif defined(SIMD_AVX2)
  return _mm256_maskload_ps(from, first_lanes(count));
#else
  Floats value = {};
  for (int lane = 0; lane < count; lane++) value[lane] = from[lane];
  return value;
#endif
}

INLINE void store(float* to, Floats value, int count) {
#if defined(SIMD_AVX512)
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), value);
#elif defined(SIMD_AVX2)
  _mm256_maskstore_ps(to, first_lanes(count), value);
#else
  for (int lane = 0; lane < count; lane++) to[lane] = value[lane];
#endif
}

// a * b + c, rounded once where the target has such an instruction.
INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(SIMD_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(SIMD_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

INLINE Floats select(Ints condition, Floats yes, Floats no) {
  return (Floats)((condition & (Ints)yes) | (~condition & (Ints)no));
}

// Adds the halves of a vector until four lanes are left.
INLINE Four fold(Floats value) {
#if defined(SIMD_AVX512)
  const auto half = __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const auto half = value;
#endif
#if defined(SIMD_AVX2)
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) +
         __builtin_shufflevector(half, half, 4, 5, 6, 7);
#else
  return half;
#endif
}

// The sum of all lanes, in a fixed order.
INLINE float sum(Floats value) {
  const Four four = fold(value);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The sums of four vectors at once, each in the order of `sum`.
INLINE Four sums(Floats v0, Floats v1, Floats v2, Floats v3) {
  const Four f0 = fold(v0), f1 = fold(v1), f2 = fold(v2), f3 = fold(v3);
  const Four s01 = __builtin_shufflevector(f0, f1, 0, 4, 1, 5) +
                   __builtin_shufflevector(f0, f1, 2, 6, 3, 7);
  const Four s23 = __builtin_shufflevector(f2, f3, 0, 4, 1, 5) +
                   __builtin_shufflevector(f2, f3, 2, 6, 3, 7);
  return __builtin_shufflevector(s01, s23, 0, 1, 4, 5) + __builtin_shufflevector(s01, s23, 2, 3, 6, 7);
}

// e^x to one unit in the last place for every float32; exactly 0 and infinity beyond its range, and
// NaN of NaN.
//
// x = i ln 2 + r with |r| <= ln 2 / 2, e^x = 2^i e^r. The polynomial is the minimax one of
// (e^r - 1 - r) / r^2 by relative error in e^r, which is 3e-9.
INLINE Floats exp(Floats x) {
  // Beyond these limits results are 0 and infinity anyway. A NaN fails both comparisons.
  const Floats limit = broadcast(104.0f);
  x = select(x > limit, limit, x);
  x = select(x < -limit, -limit, x);

  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Floats shifter = broadcast(0x1.8p23f);
  const Floats shifted = fma(x, broadcast(0x1.715476p0f), shifter);
  const Floats whole = shifted - shifter;
  const Ints i = (Ints)shifted - (Ints)shifter;
  // ln 2 in two parts; the first has few enough bits for an exact product.
  Floats r = fma(whole, broadcast(-0x1.62e4p-1f), x);
  r = fma(whole, broadcast(-0x1.7f7d1cp-20f), r);

  Floats q = broadcast(0x1.6a23d0p-10f);
  q = fma(q, r, broadcast(0x1.123a20p-7f));
  q = fma(q, r, broadcast(0x1.5558f2p-5f));
  q = fma(q, r, broadcast(0x1.555492p-3f));
  q = fma(q, r, broadcast(0x1.fffffcp-2f));
  const Floats e = fma(r * r, q, r) + 1.0f;

  // 2^i as two factors: i is between -150 and 150, an exponent only between -126 and 127.
  const Ints half = i >> 1;
  const Floats low = (Floats)((half + 127) << 23);
  const Floats high = (Floats)((i - half + 127) << 23);
  return e * low * high;
}

// 1 / (1 + e^-x) to 2.4 units in the last place. It takes e^x of negative numbers only, so that
// neither side of 0 cancels or overflows.
INLINE Floats sigmoid(Floats x) {
  const Floats e = exp((Floats)((Ints)x | broadcast_int(INT32_MIN)));
  return select(x < 0.0f, e, broadcast(1.0f)) / (1.0f + e);
}

INLINE Floats silu(Floats x) {
  return x * sigmoid(x);
}

}  // namespace mlx_llamba::SIMD_LEVEL
