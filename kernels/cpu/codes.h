// The readers of `weights.h` for rows of quantized matrices. Part of `matmul.simd.cpp`.
#pragma once

#include "weights.h"

namespace mlx_llamba::SIMD_LEVEL {

// A row of codes of 2 bits. (Those of 4 and 8 bits are packed: see `packed.h`.)
struct Codes {
  static constexpr int BITS = 2;
  static constexpr int VECTORS = 32 / BITS;
  static constexpr size_t BLOCK = LANES * VECTORS;

  static constexpr int REGISTERS = 3;
  struct Block {
    Ints words;
    Floats scale, bias;
  };

  const int32_t* words;
  size_t ahead; // bytes to the data of the next tile
  int group_bits; // groups are powers of two
  Ints places; // index of each lane's group in a block
  // Of the groups of the piece; `open` reads one vector past the last.
  float scales[PIECE / 32 + LANES], biases[PIECE / 32 + LANES];

  void begin(const Weight& w, size_t row, size_t column, size_t outputs) {
    const size_t left = w.in - column, numbers = left < PIECE ? left : PIECE;
    ahead = outputs * w.in * BITS / 8;
    group_bits = __builtin_ctzll(w.group);
    words = static_cast<const int32_t*>(w.values) + (row * w.in + column) / VECTORS;
    const size_t first = (row * w.in + column) >> group_bits;
    widen(w.format, w.scales, first, numbers >> group_bits, scales);
    widen(w.format, w.biases, first, numbers >> group_bits, biases);
    Ints lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane * VECTORS;
    places = lanes >> group_bits;
  }

  INLINE_MEMBER Block open(size_t block, int units) const {
    const size_t first = block * BLOCK >> group_bits;
    __builtin_prefetch(reinterpret_cast<const char*>(words + block * LANES) + ahead);
    return {load_ints(words + block * LANES, units), spread(scales + first), spread(biases + first)};
  }

  INLINE_MEMBER static Floats get(const Block& block, int vector) {
    return fma(code(block.words >> (vector * BITS)), block.scale, block.bias);
  }

 private:
  // Gives each lane the number of its group.
  INLINE_MEMBER Floats spread(const float* from) const {
    if ((size_t)1 << group_bits >= BLOCK) return broadcast(*from);
#if defined(SIMD_AVX512)
    return _mm512_permutexvar_ps((__m512i)places, load(from));
#elif defined(SIMD_AVX2)
    return _mm256_permutevar8x32_ps(load(from), (__m256i)places);
#else
    Floats value;
    for (int lane = 0; lane < LANES; lane++) value[lane] = from[places[lane]];
    return value;
#endif
  }

  // The lowest BITS bits.
  INLINE_MEMBER static Floats code(Ints bits) {
#if defined(SIMD_AVX512)
    // The table lookup uses only the lowest four bits: no mask, no conversion.
    const Floats numbers = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    return _mm512_permutexvar_ps((__m512i)bits, numbers);
#else
    return __builtin_convertvector(bits & ((1 << BITS) - 1), Floats);
#endif
  }
};

// A row of codes of 3, 5 or 6 bits, which cross word boundaries: 8 of them are BITS bytes.
template <int BITS>
struct Stream {
  static constexpr int VECTORS = 1;
  static constexpr int REGISTERS = 0; // of an open block, beside its vector
  using Block = Floats;

  const uint8_t* bytes;
  size_t ahead; // bytes to the data of the next tile
  int group_bits;
  float scales[PIECE / 32 + LANES], biases[PIECE / 32 + LANES];

  void begin(const Weight& w, size_t row, size_t column, size_t outputs) {
    const size_t left = w.in - column, numbers = left < PIECE ? left : PIECE;
    ahead = outputs * w.in * BITS / 8;
    group_bits = __builtin_ctzll(w.group);
    bytes = static_cast<const uint8_t*>(w.values) + (row * w.in + column) / 8 * BITS;
    const size_t first = (row * w.in + column) >> group_bits;
    widen(w.format, w.scales, first, numbers >> group_bits, scales);
    widen(w.format, w.biases, first, numbers >> group_bits, biases);
  }

  INLINE_MEMBER Block open(size_t block, int) const {
    const size_t first = block * LANES;
    __builtin_prefetch(bytes + first / 8 * BITS + ahead);
    const Ints now = codes(first);
    const size_t at = first >> group_bits;
    return fma(__builtin_convertvector(now, Floats), broadcast(scales[at]), broadcast(biases[at]));
  }

  INLINE_MEMBER static Floats get(const Block& block, int) {
    return block;
  }

 private:
  // A code is in two neighboring bytes: they are moved to its lane and shifted. Nothing is read after
  // the codes.
#if defined(SIMD_AVX512)
  INLINE_MEMBER Ints codes(size_t first) const {
    const __m128i stream = _mm_maskz_loadu_epi8((__mmask16)((1 << 2 * BITS) - 1), bytes + first / 8 * BITS);
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i pairs = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(stream), (__m512i)neighbors(lanes));
    return (Ints)_mm512_srlv_epi32(pairs, (__m512i)(lanes * BITS & 7)) & ((1 << BITS) - 1);
  }
#elif defined(SIMD_AVX2)
  INLINE_MEMBER Ints codes(size_t first) const {
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    const __m256i stream = _mm256_set1_epi64x((long long)word(first));
    const __m256i pairs = _mm256_shuffle_epi8(stream, (__m256i)neighbors(lanes));
    return (Ints)_mm256_srlv_epi32(pairs, (__m256i)(lanes * BITS & 7)) & ((1 << BITS) - 1);
  }
#else
  INLINE_MEMBER Ints codes(size_t first) const {
    Ints now;
    const uint64_t stream = word(first) >> (first % 8 * BITS);
    for (int lane = 0; lane < LANES; lane++) now[lane] = (int)(stream >> (lane * BITS)) & ((1 << BITS) - 1);
    return now;
  }
#endif

  // The places of the two bytes of each lane's code, and of two zeros.
  INLINE_MEMBER static Ints neighbors(Ints lanes) {
    const Ints byte = lanes * BITS >> 3;
    return byte | (byte + 1) << 8 | (int)0x80800000;
  }

  // Reads the 8 codes that include `first`, and nothing after them.
  INLINE_MEMBER uint64_t word(size_t first) const {
    const uint8_t* from = bytes + first / 8 * BITS;
    uint32_t four;
    uint16_t two;
    if constexpr (BITS == 3) {
      __builtin_memcpy(&two, from, 2);
      return two | (uint32_t)from[2] << 16;
    }
    __builtin_memcpy(&four, from, 4);
    if constexpr (BITS == 5) return four | (uint64_t)from[4] << 32;
    __builtin_memcpy(&two, from + 4, 2);
    return four | (uint64_t)two << 32;
  }
};

} // namespace mlx_llamba::SIMD_LEVEL
