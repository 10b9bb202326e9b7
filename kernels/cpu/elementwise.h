// The small operations between matrix multiplications. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

struct ElementwiseTable {
  // silu(gate) * up of rows of m that are `stride` apart, to elements `begin..end` of (rows, m).
  void (*swiglu)(
      const float* gate, const float* up, size_t stride, float* out, size_t m, size_t begin, size_t end);

  // Backward of swiglu: writes elements `begin..end` of d_gate and d_up, whose rows are `stride` apart
  // too, from d_out (rows, m).
  void (*swiglu_gradient)(const float* gate, const float* up, size_t stride, const float* d_out,
                          float* d_gate, float* d_up, size_t m, size_t begin, size_t end);

  // e^x of elements `begin..end`.
  void (*exp)(const float* x, float* out, size_t begin, size_t end);

  // One row of d: sum = x + y and normed = sum / sqrt(mean(sum^2) + epsilon) * weight.
  // Without y, sum is x and is not written.
  void (*add_rms_norm)(
      const float* x, const float* y, const float* weight, float epsilon, float* sum, float* normed, size_t d);

  // Backward of add_rms_norm for one row: writes d_sum, the gradient with respect to the sum, from
  // d_normed, and adds `d_later` to it, the gradient that reaches the sum by another way (or null).
  // Writes `scaled` = d_normed * sum / sqrt(mean(sum^2) + epsilon) too, whose sum over the rows is the
  // gradient with respect to the weight.
  void (*rms_norm_gradient)(const float* sum, const float* weight, float epsilon, const float* d_normed,
                            const float* d_later, float* d_sum, float* scaled, size_t d);
};

PER_LEVEL(ElementwiseTable, elementwise_table)

// The same on all threads: silu(gate) * up of rows of m that are `stride` apart, to `size` elements.
void swiglu(const float* gate, const float* up, size_t stride, float* out, size_t m, size_t size);

// `rows` rows of `ElementwiseTable::add_rms_norm`.
void add_rms_norm(
    const float* x, const float* y, const float* weight, float epsilon, float* sum, float* normed, size_t rows, size_t d);

} // namespace mlx_llamba
