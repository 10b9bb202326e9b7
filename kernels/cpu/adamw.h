// A step of AdamW. Everything float32.
#pragma once

#include <cstddef>

#include "c_api.h"
#include "levels.h"

namespace mlx_llamba {

// m' = beta1 m + (1 - beta1) g,  v' = beta2 v + (1 - beta2) g^2,
// p' = kept p - rate m' / (root sqrt(v') + epsilon), where g is the gradient times `scale`.
using AdamW = mlx_llamba_adamw_factors;

struct AdamWTable {
  // Elements `begin..end`.
  void (*step)(
      const AdamW& how, float scale, const float* p, const float* g, const float* m, const float* v, float* new_p, float* new_m,
      float* new_v, size_t begin, size_t end);
};

PER_LEVEL(AdamWTable, adamw_table)

} // namespace mlx_llamba
