// Distributions over a vocabulary, compared. Everything float32, row-major.
#pragma once

#include <cstddef>

#include "levels.h"

namespace mlx_llamba {

// What a row of logits is compared with: `teacher` (null for none) at a temperature, with a weight,
// and whatever token is right, with another.
struct Comparison {
  float temperature, teacher_weight, next_weight;
};

struct CrossEntropyTable {
  // One row of v logits s and of the teacher's t, both divided by the temperature T:
  //   slopes = teacher_weight (softmax(s / T) - softmax(t / T)) + next_weight softmax(s)
  //   sums[0] = cross entropy of s / T with softmax(t / T), sums[1] = that less its least value,
  //   sums[2] = log sum e^s
  void (*compare)(const float* logits, const float* teacher, Comparison how, float* slopes, float* sums,
                  size_t v);
};

PER_LEVEL(CrossEntropyTable, cross_entropy_table)

} // namespace mlx_llamba
