// Matrix multiplication of activations rounded to int8 with a weight of 4- or 8-bit codes.
//
// Every 32 activations of a row share a scale: x ~ s c with s = max |x| / 127 and whole c. With the
// affine weights scale * q + bias a sum over a group is
//
//     sum (scale q + bias) s c = scale * sum of s (sum q c) + bias * sum of s c
//
// The inner sums are of products of small integers: exact, in any order. Each covers four consecutive
// words of codes; the results are added in float32, in 16 chains on every instruction set, so that
// AVX2, AVX-512 and NEON give the same bits, for any number of rows and threads. (SSE2 has no
// multiply-add and rounds twice.)
//
// A block of 32 with an infinity or NaN makes its row NaN. A block whose largest value is below 1e-36
// counts as 0.
#pragma once

#include "matmul.h"

namespace mlx_llamba {

// Activations that share a scale.
constexpr size_t INT8_BLOCK = 32;

// Words of a row of weights per step, on any instruction set: four for each chain. Words 4 j + 16 e to
// 4 j + 16 e + 3 of a step belong to chain 4 j + e; so four vectors of words, transposed four by four,
// have the words of a chain in one lane.
constexpr size_t INT8_WORDS = 64, INT8_CHAINS = 16;

// Offsets of the parts of a row of rounded activations, in bytes. For every m < 4 and v < 8 / bits a
// step has 64 bytes: the activations of the v-th codes in the bytes of the m-th words of all chains.
// `scales` has the scales of its chains.
struct Int8Layout {
  size_t steps, scales, sums, stride;
};

// Inlined into every file: see `levels.h`.
static inline __attribute__((always_inline)) Int8Layout int8_layout(const Weight& w) {
  const size_t numbers = INT8_WORDS * 32 / (size_t)w.bits;
  const size_t steps = (w.in + numbers - 1) / numbers;
  const size_t scales = steps * numbers, sums = scales + steps * INT8_CHAINS * sizeof(float);
  const size_t groups = (w.in / w.group * sizeof(float) + 63) / 64 * 64;
  // One cache line more: rows a power of two apart would compete for cache sets.
  return {steps, scales, sums, sums + groups + 64};
}

// Numbers of a row that are summed in registers before the chains are added: 8 rows of them fit in the
// first-level cache.
constexpr size_t INT8_PIECE = 2048;

struct Int8Rows {
  const char* values;
  size_t rows;
};

struct Int8Table {
  // Rounds rows [begin, end) of x (.., in); rows are `Int8Layout::stride` bytes apart.
  void (*round)(const Weight& w, const float* x, char* to, size_t begin, size_t end);
  // y[r, o] for all rows r and begin <= o < end; weights are unpacked for a few rows at a time.
  void (*multiply)(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end);
};

// The table for AVX-512 needs VNNI: `matmul.cpp` chooses for processors without it.
PER_LEVEL(Int8Table, int8_level_table)

// Returns true if there are such kernels for a matrix of this many bits (0: dense).
static constexpr bool has_int8(int bits) {
  return bits == 4 || bits == 8;
}

} // namespace mlx_llamba
