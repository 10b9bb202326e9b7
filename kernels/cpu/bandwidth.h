// How fast this machine reads memory at all: what products with one row are to be held against.
#pragma once

#include <stddef.h>

#include "levels.h"

namespace mlx_llamba {

struct BandwidthTable {
  // Reads `count` floats, a multiple of 256, and does next to nothing with them.
  float (*sum)(const float* from, size_t count);
};

PER_LEVEL(BandwidthTable, bandwidth_table)

} // namespace mlx_llamba
