// Matrix multiplication with a weight: y (rows, out) = x (rows, in) W^T, W (out, in).
//
// W is read as it is stored, and every number of it is converted to float32 before use. The sum over
// `in` is taken in pieces of PIECE numbers, with one chain of multiply-adds per lane, in an order that
// depends only on the storage of W and the instruction set: not on the number of rows, the position of
// a row, or the number of threads.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "levels.h"

namespace mlx_llamba {

// The storage of numbers.
enum class Format { f32, f16, bf16 };

// W in memory. `bits` is 0 for a dense matrix; otherwise the matrix is in MLX's affine quantization:
// each code q of a group of `group` codes represents scale * q + bias. The codes of a row are a stream
// of bits, the lowest first.
struct Weight {
  const void* values;
  const void* scales = nullptr; // (out, in / group)
  const void* biases = nullptr;
  Format format; // of the values, or of scales and biases
  int bits = 0;
  size_t group = 0;
  size_t in, out;
};

constexpr size_t PIECE = 1024;

// Outputs that the kernel for many rows computes at a time, and the floats of their unpacked weights.
constexpr size_t PANEL = 96, PANEL_FLOATS = PANEL * (PIECE + 64);

// Rows of x in the order in which codes are unpacked from their words, with zeros up to `stride`, a
// multiple of the lanes.
struct Rows {
  const float* values;
  size_t rows, stride;
};

struct MatmulTable {
  // Floats between rows of x in `Rows`.
  size_t (*stride)(const Weight& w);
  // Writes rows [begin, end) of x (.., in) for `Rows`.
  void (*arrange)(const Weight& w, const float* x, float* to, size_t begin, size_t end);
  // y[r, o] for all rows r and begin <= o < end; weights are unpacked for a few rows at a time.
  void (*few)(const Weight& w, const Rows& x, float* y, size_t begin, size_t end);
  // The same for at most PANEL outputs; weights are unpacked once, into `panel`, which has room for
  // PANEL_FLOATS.
  void (*many)(const Weight& w, const Rows& x, float* y, size_t begin, size_t end, float* panel);
  // The number of rows up to which `few` is faster.
  size_t (*most_few)(const Weight& w);
};

PER_LEVEL(MatmulTable, matmul_table)

} // namespace mlx_llamba
