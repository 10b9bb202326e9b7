// Dot products of codes with int8 activations. Part of `int8.simd.cpp`.
#pragma once

#include "int8.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {

// Bytes between the activations of one part of a step and those of the next.
constexpr size_t PART = 64;

// The codes of four words per lane, one byte each: part m * (8 / BITS) + v has the v-th codes in the
// bytes of the m-th words.
template <int BITS>
struct Bytes {
  static constexpr int EACH = 8 / BITS, PARTS = 4 * EACH;
  Ints part[PARTS];
};

// Moves lane 4 j + e of words m to lane 4 j + m of words e.
INLINE void transpose(Ints (&words)[4]) {
#if defined(SIMD_AVX512)
  const auto low = [](Ints a, Ints b) { return (Ints)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b); };
  const auto high = [](Ints a, Ints b) { return (Ints)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b); };
  const auto low2 = [](Ints a, Ints b) { return (Ints)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b); };
  const auto high2 = [](Ints a, Ints b) { return (Ints)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b); };
#elif defined(SIMD_AVX2)
  const auto low = [](Ints a, Ints b) { return (Ints)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b); };
  const auto high = [](Ints a, Ints b) { return (Ints)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b); };
  const auto low2 = [](Ints a, Ints b) { return (Ints)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); };
  const auto high2 = [](Ints a, Ints b) { return (Ints)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); };
#else
  const auto low = [](Ints a, Ints b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); };
  const auto high = [](Ints a, Ints b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); };
  const auto low2 = [](Ints a, Ints b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); };
  const auto high2 = [](Ints a, Ints b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); };
#endif
  const Ints low01 = low(words[0], words[1]), low23 = low(words[2], words[3]);
  const Ints high01 = high(words[0], words[1]), high23 = high(words[2], words[3]);
  words[0] = low2(low01, low23);
  words[1] = high2(low01, low23);
  words[2] = low2(high01, high23);
  words[3] = high2(high01, high23);
}

template <int BITS>
INLINE Bytes<BITS> unpack(const Ints (&words)[4]) {
  Bytes<BITS> codes;
#pragma GCC unroll 4
  for (int m = 0; m < 4; m++) {
    if constexpr (BITS == 8) {
      codes.part[m] = words[m];
    } else {
      codes.part[2 * m] = words[m] & 0x0f0f0f0f;
      codes.part[2 * m + 1] = (words[m] >> 4) & 0x0f0f0f0f;
    }
  }
  return codes;
}

INLINE Ints load_bytes(const char* from) {
  Ints value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

// `dot`: the dot product of each lane's codes with int8 activations; those of part p are at
// `x + p * PART`. AVX-512 VNNI computes four products per lane and instruction.
#if defined(SIMD_AVX512)
#define VNNI __attribute__((target("avx512vnni")))
template <int BITS>
VNNI static inline __attribute__((always_inline)) Ints dot(const Bytes<BITS>& codes, const char* x) {
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int p = 0; p < Bytes<BITS>::PARTS; p++) {
    sum = _mm512_dpbusd_epi32(sum, (__m512i)codes.part[p], (__m512i)load_bytes(x + (size_t)p * PART));
  }
  return (Ints)sum;
}
#elif defined(SIMD_AVX2)
// Products of unsigned and signed bytes, pairs added in 16 bits.
INLINE Ints pairs(Ints codes, Ints x) {
  return (Ints)_mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
}

INLINE Ints add_pairs(Ints a, Ints b) {
  return (Ints)_mm256_add_epi16((__m256i)a, (__m256i)b);
}

INLINE Ints quads(Ints pairs, int16_t factor) {
  return (Ints)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(factor));
}

template <int BITS>
INLINE Ints dot(const Bytes<BITS>& codes, const char* x) {
  // 16 bits hold eight pairs of products of half a byte: 8 * 2 * 15 * 127 = 30480. Whole bytes
  // would overflow, so their halves are multiplied separately.
  Ints low = {}, high = {};
#pragma GCC unroll 8
  for (int p = 0; p < Bytes<BITS>::PARTS; p++) {
    const Ints value = load_bytes(x + (size_t)p * PART);
    low = add_pairs(low, pairs(BITS == 8 ? codes.part[p] & 0x0f0f0f0f : codes.part[p], value));
    if (BITS == 8) high = add_pairs(high, pairs((codes.part[p] >> 4) & 0x0f0f0f0f, value));
  }
  return BITS == 8 ? quads(low, 1) + quads(high, 16) : quads(low, 1);
}
#else
template <int BITS>
INLINE Ints dot(const Bytes<BITS>& codes, const char* x) {
  typedef int16_t Shorts __attribute__((vector_size(16)));
  Ints sum = {};
#pragma GCC unroll 8
  for (int p = 0; p < Bytes<BITS>::PARTS; p++) {
    const Shorts value = (Shorts)load_bytes(x + (size_t)p * PART), code = (Shorts)codes.part[p];
    // Bytes at even and at odd positions, widened; 255 * 127 fits into 16 bits.
    const Shorts value0 = (value << 8) >> 8, value1 = value >> 8;
    const Shorts code0 = code & 0xff, code1 = (code >> 8) & 0xff;
#if defined(__x86_64__)
    sum += (Ints)_mm_madd_epi16((__m128i)code0, (__m128i)value0);
    sum += (Ints)_mm_madd_epi16((__m128i)code1, (__m128i)value1);
#elif defined(__ARM_NEON)
    sum = (Ints)vpadalq_s16((int32x4_t)sum, (int16x8_t)(code0 * value0));
    sum = (Ints)vpadalq_s16((int32x4_t)sum, (int16x8_t)(code1 * value1));
#else
    const Shorts product0 = code0 * value0, product1 = code1 * value1;
    for (int i = 0; i < 8; i++) sum[i / 2] += product0[i] + product1[i];
#endif
  }
  return sum;
}
#endif

} // namespace mlx_llamba::SIMD_LEVEL
