#include "bandwidth.h"

#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

float sum_all(const float* from, size_t count) {
  constexpr int VECTORS = 4;
  // As far as matrix multiplications prefetch.
  constexpr size_t AHEAD = 4096;
  Floats acc[VECTORS] = {};
  for (size_t i = 0; i < count; i += VECTORS * LANES) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      __builtin_prefetch(reinterpret_cast<const char*>(from + i + v * LANES) + AHEAD);
      acc[v] += load(from + i + v * LANES);
    }
  }
  return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

} // namespace

extern const BandwidthTable bandwidth_table{sum_all};

} // namespace mlx_llamba::SIMD_LEVEL
