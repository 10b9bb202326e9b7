// The softmax of attention scores. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

struct SoftmaxTable {
  // One row of n > 0 scores to e^(x - max) / sum; -inf becomes exactly 0.
  void (*softmax)(const float* x, float* out, size_t n);

  // Its result y and the gradient with respect to y, to that with respect to the scores:
  // y * (slope - sum(slope * y)).
  void (*slopes)(const float* y, const float* slope, float* out, size_t n);
};

PER_LEVEL(SoftmaxTable, softmax_table)

} // namespace mlx_llamba
