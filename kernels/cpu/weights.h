// Reading a row of a weight matrix as vectors of float32. Part of `matmul.simd.cpp`.
//
// A reader reads a piece of a row in blocks of LANES units of storage and returns VECTORS vectors per
// block; a unit is a number of a dense row, or a word of VECTORS codes. So lane `l` of vector `v` is
// number `l * VECTORS + v` of the block.
#pragma once

#include "matmul.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {

#define INLINE_MEMBER __attribute__((always_inline))

typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// Loads the first `count` 16-bit numbers; the others are 0.
INLINE Halves load_halves(const uint16_t* from, int count) {
#if defined(SIMD_AVX512)
  return (Halves)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), from);
#else
  Halves halves = {};
  if (count == LANES) {
    __builtin_memcpy(&halves, from, sizeof halves);
  } else {
    for (int lane = 0; lane < count; lane++) halves[lane] = from[lane];
  }
  return halves;
#endif
}

// Loads the first `count` words; the others are 0.
INLINE Ints load_ints(const int32_t* from, int count) {
  return (Ints)load(reinterpret_cast<const float*>(from), count);
}

INLINE Floats from_bf16(Halves halves) {
  return (Floats)(__builtin_convertvector(halves, Ints) << 16);
}

INLINE Floats from_f16(Halves halves) {
#if defined(SIMD_AVX512)
  return _mm512_cvtph_ps((__m256i)halves);
#elif defined(SIMD_AVX2)
  return _mm256_cvtph_ps((__m128i)halves);
#elif defined(__ARM_NEON)
  return (Floats)vcvt_f32_f16((float16x4_t)halves);
#else
  // Exponent and mantissa are moved to their positions in float32; a multiplication then changes the
  // exponent from f16's bias to float32's, which is right for subnormals too.
  const Ints bits = __builtin_convertvector(halves, Ints);
  const Ints sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13;
  const Ints special = rest >= (0x7c00 << 13); // infinity or NaN
  const Floats value = select(special, (Floats)(rest | 0x7f800000), (Floats)rest * broadcast(0x1p112f));
  return (Floats)((Ints)value | sign);
#endif
}

template <Format format>
INLINE Floats load_as(const void* values, size_t index, int count) {
  if constexpr (format == Format::f32) {
    return load(static_cast<const float*>(values) + index, count);
  } else {
    const Halves halves = load_halves(static_cast<const uint16_t*>(values) + index, count);
    return format == Format::bf16 ? from_bf16(halves) : from_f16(halves);
  }
}

INLINE float load_number(Format format, const void* values, size_t index) {
  switch (format) {
    case Format::f32: return load_as<Format::f32>(values, index, 1)[0];
    case Format::f16: return load_as<Format::f16>(values, index, 1)[0];
    default: return load_as<Format::bf16>(values, index, 1)[0];
  }
}

// Writes `count` numbers as float32, then zeros up to a multiple of the lanes.
template <Format format>
INLINE void widen(const void* values, size_t index, size_t count, float* to) {
  for (size_t i = 0; i < count; i += LANES) {
    const size_t left = count - i;
    store(to + i, load_as<format>(values, index + i, left < LANES ? (int)left : LANES));
  }
}

inline void widen(Format format, const void* values, size_t index, size_t count, float* to) {
  switch (format) {
    case Format::f32: return widen<Format::f32>(values, index, count, to);
    case Format::f16: return widen<Format::f16>(values, index, count, to);
    case Format::bf16: return widen<Format::bf16>(values, index, count, to);
  }
}

// A row of floats.
template <Format format>
struct Dense {
  static constexpr int VECTORS = 1;

  static constexpr size_t SIZE = format == Format::f32 ? 4 : 2;
  static constexpr int REGISTERS = 0; // of an open block, beside its vector
  using Block = Floats;

  const void* values;
  size_t start;
  size_t ahead; // bytes to the data of the next tile

  void begin(const Weight& w, size_t row, size_t column, size_t outputs) {
    values = w.values;
    start = row * w.in + column;
    ahead = outputs * w.in * SIZE;
  }

  INLINE_MEMBER Block open(size_t block, int units) const {
    __builtin_prefetch(static_cast<const char*>(values) + (start + block * LANES) * SIZE + ahead);
    return load_as<format>(values, start + block * LANES, units);
  }

  INLINE_MEMBER static Floats get(const Block& block, int) {
    return block;
  }
};

// A row unpacked to whole blocks; it is in the cache, so nothing is prefetched.
struct Unpacked {
  static constexpr int VECTORS = 1;
  static constexpr int REGISTERS = 0;
  using Block = Floats;

  const float* values;

  INLINE_MEMBER Block open(size_t block, int) const {
    return load(values + block * LANES);
  }

  INLINE_MEMBER static Floats get(const Block& block, int) {
    return block;
  }
};

} // namespace mlx_llamba::SIMD_LEVEL
