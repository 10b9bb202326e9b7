// Products of activations that are rounded to int8 with a weight matrix of 2-, 4- or 8-bit codes.
//
// Every 32 activations of a row share a scale: x ~ s c with s = max |x| / 127 and whole c. With the
// affine weights scale * q + bias a sum over a group is
//
//     sum (scale q + bias) s c = scale * sum of s (sum q c) + bias * sum of s c
//
// and its inner sums are sums of products of small whole numbers: exact, in any order. They are
// taken for each word of codes; what the words give is added in float32, in 16 chains whatever the
// registers are, so that AVX2, AVX-512 and NEON give the same bits, for any number of rows and
// threads. (SSE2 has no multiply-add and rounds twice.)
//
// A block of 32 with an infinity or NaN makes its row NaN. One with nothing above 1e-36 counts as 0.
#pragma once

#include "matmul.h"

namespace mlx_llamba {

// Activations that share a scale.
constexpr size_t INT8_BLOCK = 32;

// Words of a row of weights that one step takes, on any instruction set.
constexpr size_t INT8_WORDS = 16;

// Where the parts of a row of rounded activations lie, in bytes from its begin. A block has
// INT8_WORDS words: for every v < 8 / bits the 64 bytes that belong to the codes which stand v-th in
// their bytes; and in `scales` the scale of every word.
struct Int8Layout {
  size_t blocks, scales, sums, stride;
};

// Of this file's own in every file: see `levels.h`.
static inline __attribute__((always_inline)) Int8Layout int8_layout(const Weight& w) {
  const size_t numbers = INT8_WORDS * 32 / (size_t)w.bits;
  const size_t blocks = (w.in + numbers - 1) / numbers;
  const size_t scales = blocks * numbers, sums = scales + blocks * INT8_WORDS * sizeof(float);
  const size_t groups = (w.in / w.group * sizeof(float) + 63) / 64 * 64;
  // A line more: rows a power of two apart would compete for lines of the cache.
  return {blocks, scales, sums, sums + groups + 64};
}

struct Int8Rows {
  const char* values;
  size_t rows;
};

struct Int8Table {
  // Rounds rows [begin, end) of x (.., in); rows are `Int8Layout::stride` bytes apart.
  void (*round)(const Weight& w, const float* x, char* to, size_t begin, size_t end);
  // y[r, o] for all rows r and begin <= o < end; weights are unpacked for a few rows at a time.
  void (*products)(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end);
};

PER_LEVEL(Int8Table, int8_table)

// True if there are such products of a matrix of so many bits (0: a dense one).
static constexpr bool has_int8(int bits) {
  return bits == 2 || bits == 4 || bits == 8;
}

} // namespace mlx_llamba
