// Products of activations with a weight matrix: y (rows, out) = x (rows, in) W^T, W (out, in).
#pragma once

#include <cstddef>
#include <cstdint>

#include "levels.h"

namespace mlx_llamba {

// How numbers are stored.
enum class Format { f32, f16, bf16 };

// W as it lies in memory. `bits` is 0 for a dense matrix; else the matrix is in MLX's affine
// quantization: groups of `group` values q of a row stand for scale * q + bias.
struct Weight {
  const void* values;
  const void* scales = nullptr; // (out, in / group)
  const void* biases = nullptr;
  Format format; // of the values, or of scales and biases
  int bits = 0;
  size_t group = 0;
  size_t in, out;
};

struct MatmulTable {
  // y[r, o] for all rows r and `begin <= o < end`.
  void (*rows)(const Weight& w, const float* x, float* y, size_t rows, size_t begin, size_t end);
};

PER_LEVEL(MatmulTable, matmul_table)

} // namespace mlx_llamba
