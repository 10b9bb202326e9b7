// Products of a packed matrix with activations rounded to int8. Part of `packed.simd.cpp`.
#pragma once

#include "packed_column.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

// Four int8 activations in every lane.
INLINE Ints broadcast_bytes(const char* from) {
  int32_t four;
  __builtin_memcpy(&four, from, sizeof four);
  return broadcast_int(four);
}

// The sum over a block of products of the codes of a vector of outputs with int8 activations. `codes`
// has them unpacked: byte b of lane o of vector i times byte b of the i-th four activations.
template <int BITS>
struct Block {
  static constexpr int COUNT = (int)INT8_BLOCK / 4; // vectors of four codes per lane
  Ints codes[COUNT];

  INLINE_MEMBER void unpack(const Column<BITS>& column, size_t block) {
    constexpr int LINES = (int)INT8_BLOCK / Column<BITS>::CODES;
#pragma GCC unroll 8
    for (int j = 0; j < LINES; j++) {
      const Ints words = column.line(block * LINES + (size_t)j);
      if constexpr (BITS == 8) {
        codes[j] = words;
      } else {
        codes[2 * j] = words & 0x0f0f0f0f;
        codes[2 * j + 1] = (words >> 4) & 0x0f0f0f0f;
      }
    }
  }
};

#if defined(SIMD_AVX512)
template <int BITS>
INLINE_VNNI Ints dot(const Block<BITS>& block, const char* x) {
  // Two chains: one would be as long as the delay of all its instructions.
  __m512i even = _mm512_setzero_si512(), odd = even;
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i += 2) {
    even = _mm512_dpbusd_epi32(even, (__m512i)block.codes[i], (__m512i)broadcast_bytes(x + 4 * i));
    odd = _mm512_dpbusd_epi32(odd, (__m512i)block.codes[i + 1], (__m512i)broadcast_bytes(x + 4 * i + 4));
  }
  return (Ints)_mm512_add_epi32(even, odd);
}
#elif defined(__AVXVNNI__)
template <int BITS>
INLINE Ints dot(const Block<BITS>& block, const char* x) {
  __m256i even = _mm256_setzero_si256(), odd = even;
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i += 2) {
    even = _mm256_dpbusd_avx_epi32(even, (__m256i)block.codes[i], (__m256i)broadcast_bytes(x + 4 * i));
    odd = _mm256_dpbusd_avx_epi32(odd, (__m256i)block.codes[i + 1], (__m256i)broadcast_bytes(x + 4 * i + 4));
  }
  return (Ints)_mm256_add_epi32(even, odd);
}
#elif defined(SIMD_AVX2)
// Products of unsigned and signed bytes, pairs added in 16 bits.
INLINE __m256i pairs(Ints codes, Ints x) {
  return _mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
}

INLINE Ints quads(__m256i pairs, int16_t factor) {
  return (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(factor));
}

template <int BITS>
INLINE Ints dot(const Block<BITS>& block, const char* x) {
  // 16 bits hold eight pairs of products of half a byte: 8 * 2 * 15 * 127 = 30480. Whole bytes
  // would overflow, so their halves are multiplied separately.
  __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i++) {
    const Ints value = broadcast_bytes(x + 4 * i), codes = block.codes[i];
    low = _mm256_add_epi16(low, pairs(BITS == 8 ? codes & 0x0f0f0f0f : codes, value));
    if (BITS == 8) high = _mm256_add_epi16(high, pairs((codes >> 4) & 0x0f0f0f0f, value));
  }
  return BITS == 8 ? quads(low, 1) + quads(high, 16) : quads(low, 1);
}
#else
template <int BITS>
INLINE Ints dot(const Block<BITS>& block, const char* x) {
  Ints sum = {};
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i++) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    sum = (Ints)vusdotq_s32((int32x4_t)sum, (uint8x16_t)block.codes[i], (int8x16_t)broadcast_bytes(x + 4 * i));
    continue;
#elif defined(__ARM_FEATURE_DOTPROD)
    // Codes of 4 bits are signed bytes too.
    if constexpr (BITS == 4) {
      sum = (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)block.codes[i], (int8x16_t)broadcast_bytes(x + 4 * i));
      continue;
    }
#endif
    typedef int16_t Shorts __attribute__((vector_size(16)));
    const Shorts value = (Shorts)broadcast_bytes(x + 4 * i), code = (Shorts)block.codes[i];
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
    for (int lane = 0; lane < 8; lane++) sum[lane / 2] += product0[lane] + product1[lane];
#endif
  }
  return sum;
}
#endif

template <int BITS, int R>
VNNI void multiply_int8(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  const PreparedLayout layout = prepared_layout(w, true);
  const size_t groups = w.in / w.group, blocks = w.group / INT8_BLOCK;
  for (size_t vector = begin * PARTS; vector < end * PARTS; vector++) {
    Column<BITS> column;
    column.begin(w, vector);
    for (size_t row = 0; row < x.rows; row += R) {
      const char* rows[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        rows[r] = x.values + (row + (size_t)r < x.rows ? row + (size_t)r : x.rows - 1) * layout.stride;
      }
      Floats sums[R] = {};
      for (size_t group = 0; group < groups; group++) {
        Floats part[R] = {};
        for (size_t block = group * blocks; block < (group + 1) * blocks; block++) {
          Block<BITS> codes;
          codes.unpack(column, block);
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) {
            const Floats products = __builtin_convertvector(dot(codes, rows[r] + block * INT8_BLOCK), Floats);
            const float scale = reinterpret_cast<const float*>(rows[r] + layout.scales)[block];
            part[r] = fma(products, broadcast(scale), part[r]);
          }
        }
        const size_t at = column.first + group * TILE;
        const Floats scale = load_numbers(w.format, w.scales, at), bias = load_numbers(w.format, w.biases, at);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const float x_sum = reinterpret_cast<const float*>(rows[r] + layout.sums)[group];
          sums[r] = add_group(sums[r], scale, part[r], bias, x_sum);
        }
      }
      write(w, sums, row, x.rows, vector, y);
    }
  }
}

template <int BITS>
void multiply_int8(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  if (x.rows == 1) return multiply_int8<BITS, 1>(w, x, y, begin, end);
  if (x.rows == 2) return multiply_int8<BITS, 2>(w, x, y, begin, end);
  if constexpr (REGISTERS == 32) {
    const auto padded = [&](size_t rows) { return (x.rows + rows - 1) / rows * rows; };
    if (x.rows > 4 && padded(8) <= padded(6)) return multiply_int8<BITS, 8>(w, x, y, begin, end);
    if (x.rows > 4) return multiply_int8<BITS, 6>(w, x, y, begin, end);
  }
  multiply_int8<BITS, 4>(w, x, y, begin, end);
}

void int8_all(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  if (w.bits == 4) return multiply_int8<4>(w, x, y, begin, end);
  multiply_int8<8>(w, x, y, begin, end);
}

// Rounds a block of numbers to multiples of its scale and returns the scale.
INLINE float round_block(const float* x, int8_t* codes, int32_t& sum) {
  // As integers, the bits of |x| are in the order of |x|, with NaN above infinity.
  int32_t most = 0;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= INT32_MAX;
    most = bits > most ? bits : most;
  }
  float largest;
  __builtin_memcpy(&largest, &most, sizeof largest);
  const bool finite = most < 0x7f800000;
  sum = 0;
  // Below that the inverse of the scale is not a float.
  if (!finite || largest < 1e-36f) {
    __builtin_memset(codes, 0, INT8_BLOCK);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / largest;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const float shifted = x[i] * inverse + 0x1.8p23f;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    codes[i] = (int8_t)(bits - 0x4b400000);
    sum += bits - 0x4b400000;
  }
  return largest / 127.0f;
}

// Codes of 4 bits: of every 8 activations, those at even places come first, as in `Block::unpack`.
template <int BITS>
INLINE void arrange_bytes(const int8_t* codes, char* to) {
  if constexpr (BITS == 8) {
    __builtin_memcpy(to, codes, INT8_BLOCK);
  } else {
    for (size_t i = 0; i < INT8_BLOCK; i += 8) {
      for (size_t b = 0; b < 4; b++) to[i + b] = (char)codes[i + 2 * b];
      for (size_t b = 0; b < 4; b++) to[i + 4 + b] = (char)codes[i + 2 * b + 1];
    }
  }
}

template <int BITS>
INLINE void prepare_int8(const Weight& w, const PreparedLayout& layout, const float* x, char* to) {
  float* scales = reinterpret_cast<float*>(to + layout.scales);
  float* sums = reinterpret_cast<float*>(to + layout.sums);
  for (size_t group = 0; group < w.in / w.group; group++) {
    float total = 0;
    for (size_t column = group * w.group; column < (group + 1) * w.group; column += INT8_BLOCK) {
      int8_t codes[INT8_BLOCK];
      int32_t sum;
      const float scale = round_block(x + column, codes, sum);
      arrange_bytes<BITS>(codes, to + column);
      scales[column / INT8_BLOCK] = scale;
      total += scale * (float)sum;
    }
    sums[group] = total;
  }
}

} // namespace
} // namespace mlx_llamba::SIMD_LEVEL
