// Products of activations with a weight matrix: y (rows, out) = x (rows, in) W^T, W (out, in).
//
// W is read as it is stored and every number of it becomes a float32 before it is used. A product
// sums over `in` in pieces of PIECE numbers, each with one chain of multiply-adds a lane, in an order
// that depends on nothing but the storage of W and the instruction set: not on the number of rows,
// nor on where a row stands among them, nor on the number of threads.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "levels.h"

namespace mlx_llamba {

// How numbers are stored.
enum class Format { f32, f16, bf16 };

// W as it lies in memory. `bits` is 0 for a dense matrix; else the matrix is in MLX's affine
// quantization: groups of `group` codes q of a row stand for scale * q + bias. The codes of a row
// are a stream of bits, the lowest first.
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

// Outputs that the kernel for many rows takes at a time, and the floats that it unpacks them into.
constexpr size_t PANEL = 96, PANEL_FLOATS = PANEL * (PIECE + 64);

// Rows of x as the kernels read them: in the order in which codes come out of their words, and with
// zeros up to `stride`, a multiple of the lanes.
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
  // Up to how many rows `few` is the faster; 0 if it does not take such weights at all.
  size_t (*most_few)(const Weight& w);
};

PER_LEVEL(MatmulTable, matmul_table)

} // namespace mlx_llamba
