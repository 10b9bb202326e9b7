// The small operations between matrix products. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

struct ElementwiseTable {
  // silu(gate) * up of rows of m that are `stride` apart, to (rows, m): elements `begin..end` of the
  // result.
  void (*swiglu)(
      const float* gate, const float* up, size_t stride, float* out, size_t m, size_t begin, size_t end);

  // What elements `begin..end` of `slope` (rows, m), the gradient with respect to that result, give
  // for gate and up: rows that are `stride` apart too.
  void (*swiglu_slopes)(const float* gate, const float* up, size_t stride, const float* slope,
                        float* by_gate, float* by_up, size_t m, size_t begin, size_t end);

  // e^x of elements `begin..end`.
  void (*exp)(const float* x, float* out, size_t begin, size_t end);

  // One row of d: sum = x + y and normed = sum / sqrt(mean(sum^2) + epsilon) * weight.
  // Without y, sum is x and is not written.
  void (*add_rms_norm)(
      const float* x, const float* y, const float* weight, float epsilon, float* sum, float* normed, size_t d);

  // What a row of `slope`, the gradient with respect to that norm, gives for the row `sum` of d, added
  // to `by_sum` where that is not null; and `scaled` = slope * sum / sqrt(mean(sum^2) + epsilon),
  // whose sum over the rows is the gradient with respect to the weight.
  void (*rms_norm_slopes)(const float* sum, const float* weight, float epsilon, const float* slope,
                          const float* by_sum, float* out, float* scaled, size_t d);
};

PER_LEVEL(ElementwiseTable, elementwise_table)

} // namespace mlx_llamba
