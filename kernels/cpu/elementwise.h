// The small operations between matrix products. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

struct ElementwiseTable {
  // silu(gate) * up of (rows, 2m), gate first, to (rows, m): elements `begin..end` of the result.
  void (*swiglu)(const float* gate_up, float* out, size_t m, size_t begin, size_t end);

  // One row of d: sum = x + y and normed = sum / sqrt(mean(sum^2) + epsilon) * weight.
  // Without y, sum is x and is not written.
  void (*add_rms_norm)(
      const float* x, const float* y, const float* weight, float epsilon, float* sum, float* normed, size_t d);
};

PER_LEVEL(ElementwiseTable, elementwise_table)

} // namespace mlx_llamba
