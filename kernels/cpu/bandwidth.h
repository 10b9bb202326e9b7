// The memory bandwidth of this machine: the limit of matrix multiplications with one row.
#pragma once

#include <stddef.h>

#include "levels.h"

namespace mlx_llamba {

struct BandwidthTable {
  // Adds `count` floats, a multiple of 256.
  float (*sum)(const float* from, size_t count);
};

PER_LEVEL(BandwidthTable, bandwidth_table)

} // namespace mlx_llamba
