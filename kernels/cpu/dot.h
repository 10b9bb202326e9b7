// Sums of products of codes with int8. Part of `int8.simd.cpp`.
#pragma once

#include "simd.h"
#include "weights.h"

namespace mlx_llamba::SIMD_LEVEL {

constexpr size_t PART = 64; // bytes between the parts of a block of activations

// The codes of a vector of words: part v has those that stand v-th in their bytes, a byte each.
template <int BITS>
struct Unpacked8 {
  static constexpr int PARTS = 8 / BITS;
  Ints part[PARTS];
};

template <int BITS>
INLINE Unpacked8<BITS> unpack8(Ints words) {
  Unpacked8<BITS> codes;
  if constexpr (BITS == 8) {
    codes.part[0] = words;
  } else {
    constexpr int32_t mask = BITS == 4 ? 0x0f0f0f0f : 0x03030303;
#pragma GCC unroll 4
    for (int v = 0; v < 8 / BITS; v++) codes.part[v] = (words >> (v * BITS)) & mask;
  }
  return codes;
}

INLINE Ints load_bytes(const char* from) {
  Ints value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

// `dot`: for each lane the sum of products of the codes of its word with int8; the numbers for part v
// are at `x + v * PART`. This one takes four products a lane and instruction; it is for processors with AVX-512 VNNI.
#if defined(SIMD_AVX512)
#define VNNI __attribute__((target("avx512vnni")))
struct Fused {
  template <int BITS>
  VNNI static inline __attribute__((always_inline)) Ints dot(const Unpacked8<BITS>& codes, const char* x) {
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int v = 0; v < 8 / BITS; v++) {
      sum = _mm512_dpbusd_epi32(sum, (__m512i)codes.part[v], (__m512i)load_bytes(x + v * PART));
    }
    return (Ints)sum;
  }
};
#endif

#if defined(SIMD_AVX2)
// Products of unsigned and signed bytes, pairs added in 16 bits: at most 15 * 127 * 2 at a time.
INLINE Ints pairs(Ints codes, Ints x) {
#if defined(SIMD_AVX512)
  return (Ints)_mm512_maddubs_epi16((__m512i)codes, (__m512i)x);
#else
  return (Ints)_mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
#endif
}

INLINE Ints add_pairs(Ints a, Ints b) {
#if defined(SIMD_AVX512)
  return (Ints)_mm512_add_epi16((__m512i)a, (__m512i)b);
#else
  return (Ints)_mm256_add_epi16((__m256i)a, (__m256i)b);
#endif
}

INLINE Ints quads(Ints pairs, int16_t factor) {
#if defined(SIMD_AVX512)
  return (Ints)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(factor));
#else
  return (Ints)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(factor));
#endif
}
#endif

struct Portable {
  template <int BITS>
  INLINE_MEMBER static Ints dot(const Unpacked8<BITS>& codes, const char* x) {
#if defined(SIMD_AVX2)
    if constexpr (BITS == 8) {
      // Whole bytes would overflow 16 bits; their halves do not.
      const Ints value = load_bytes(x), code = codes.part[0];
      const Ints low = pairs(code & 0x0f0f0f0f, value), high = pairs((code >> 4) & 0x0f0f0f0f, value);
      return quads(low, 1) + quads(high, 16);
    } else {
      Ints sum = pairs(codes.part[0], load_bytes(x));
#pragma GCC unroll 4
      for (int v = 1; v < 8 / BITS; v++) sum = add_pairs(sum, pairs(codes.part[v], load_bytes(x + v * PART)));
      return quads(sum, 1);
    }
#else
    typedef int16_t Shorts __attribute__((vector_size(16)));
    Ints sum = {};
    for (int v = 0; v < 8 / BITS; v++) {
      const Shorts value = (Shorts)load_bytes(x + v * PART), code = (Shorts)codes.part[v];
      // Bytes of even and of odd places, widened; 255 * 127 fits into 16 bits.
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
#endif
  }
};

} // namespace mlx_llamba::SIMD_LEVEL
