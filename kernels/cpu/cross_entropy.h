// Comparison of distributions over a vocabulary. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "c_api.h"
#include "levels.h"

namespace mlx_llamba {

// The temperature at which a row of logits is compared with the teacher's, the weight of that
// comparison, and the weight of the comparison with the next token, whichever it is.
using Comparison = mlx_llamba_comparison;

struct CrossEntropyTable {
  // One row of v logits s and of the teacher's t (null for none), both divided by the temperature T:
  //   gradient = teacher_weight (softmax(s / T) - softmax(t / T)) + next_weight softmax(s)
  //   sums[0] = cross entropy of s / T with softmax(t / T), sums[1] = the same less its least value,
  //   sums[2] = log sum e^s
  void (*compare)(const float* logits, const float* teacher, Comparison how, float* gradient, float* sums,
                  size_t v);
};

PER_LEVEL(CrossEntropyTable, cross_entropy_table)

} // namespace mlx_llamba
