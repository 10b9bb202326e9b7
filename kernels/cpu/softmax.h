// The softmax of attention scores. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

struct SoftmaxTable {
  // One row of n > 0 scores to e^(x - max) / sum; -inf becomes exactly 0.
  void (*softmax)(const float* x, float* out, size_t n);

  // Backward: from the result y and the gradient with respect to y, the gradient with respect to the
  // scores, y * (d_y - sum(d_y * y)).
  void (*gradient)(const float* y, const float* d_y, float* d_x, size_t n);
};

PER_LEVEL(SoftmaxTable, softmax_table)

} // namespace mlx_llamba
