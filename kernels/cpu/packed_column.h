// Tiles of a packed matrix as columns of vectors. Part of `packed.simd.cpp`.
#pragma once

#include "packed.h"
#include "simd.h"
#include "weights.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

#if defined(SIMD_AVX512)
#define VNNI __attribute__((target("avx512vnni")))
#else
#define VNNI
#endif
#define INLINE_VNNI VNNI static inline __attribute__((always_inline))

#if defined(SIMD_AVX512) || defined(__ARM_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Vectors of a line of a tile.
constexpr size_t PARTS = TILE / LANES;

// Bytes between a read and what it asks for ahead: longer than the delay of memory, within a few pages.
constexpr size_t AHEAD = 4096;

// One vector of outputs of a tile.
template <int BITS>
struct Column {
  static constexpr int CODES = 32 / BITS; // per word

  const int32_t* words; // lines are TILE apart
  size_t first; // of its scales and biases

  void begin(const Weight& w, size_t vector) {
    const size_t tile = vector / PARTS, lane = vector % PARTS * LANES;
    words = static_cast<const int32_t*>(w.values) + tile * (w.in / CODES) * TILE + lane;
    first = tile * (w.in / w.group) * TILE + lane;
  }

  INLINE_MEMBER Ints line(size_t j) const {
    const int32_t* from = words + j * TILE;
    __builtin_prefetch(reinterpret_cast<const char*>(from) + AHEAD);
    return load_ints(from, LANES);
  }
};

INLINE Floats load_numbers(Format format, const void* values, size_t index) {
  switch (format) {
    case Format::f32: return load_as<Format::f32>(values, index, LANES);
    case Format::f16: return load_as<Format::f16>(values, index, LANES);
    default: return load_as<Format::bf16>(values, index, LANES);
  }
}

// Adds a group's sums to those of the groups before it.
INLINE Floats add_group(Floats sum, Floats scale, Floats group, Floats bias, float x_sum) {
  return fma(bias, broadcast(x_sum), fma(scale, group, sum));
}

// Writes the first `rows` rows of sums to the outputs of a vector.
template <int R>
INLINE void write(const Weight& w, const Floats (&sums)[R], size_t row, size_t rows, size_t vector, float* y) {
  const size_t first = vector * LANES;
  if (first >= w.out) return;
  const size_t left = w.out - first;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    if (row + (size_t)r >= rows) break;
    float* to = y + (row + (size_t)r) * w.out + first;
    if (left >= LANES) store(to, sums[r]);
    else store(to, sums[r], (int)left);
  }
}

} // namespace
} // namespace mlx_llamba::SIMD_LEVEL
