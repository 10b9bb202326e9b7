#include "matmul.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

// One output, all lanes in two chains.
float dot(const float* w, const float* x, size_t in) {
  Floats sum0 = {}, sum1 = {};
  size_t i = 0;
  for (; i + 2 * LANES <= in; i += 2 * LANES) {
    sum0 = fma(load(w + i), load(x + i), sum0);
    sum1 = fma(load(w + i + LANES), load(x + i + LANES), sum1);
  }
  if (i + LANES <= in) {
    sum0 = fma(load(w + i), load(x + i), sum0);
    i += LANES;
  }
  if (i < in) sum1 = fma(load(w + i, in - i), load(x + i, in - i), sum1);
  return sum(sum0 + sum1);
}

void rows(const Weight& w, const float* x, float* y, size_t rows, size_t begin, size_t end) {
  const float* values = static_cast<const float*>(w.values);
  for (size_t o = begin; o < end; o++) {
    for (size_t r = 0; r < rows; r++) y[r * w.out + o] = dot(values + o * w.in, x + r * w.in, w.in);
  }
}

} // namespace

extern const MatmulTable matmul_table{rows};

} // namespace mlx_llamba::SIMD_LEVEL
