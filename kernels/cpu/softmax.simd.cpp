#include "softmax.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

void softmax(const float* x, float* out, size_t n) {
  float most = x[0];
  size_t c = 0;
  if (n >= LANES) {
    Floats mosts = load(x);
    for (; c + LANES <= n; c += LANES) {
      const Floats v = load(x + c);
      mosts = select(v > mosts, v, mosts);
    }
    for (int lane = 0; lane < LANES; lane++) most = mosts[lane] > most ? mosts[lane] : most;
  }
  for (; c < n; c++) most = x[c] > most ? x[c] : most;

  const Floats shift = broadcast(most);
  Floats total = {};
  for (c = 0; c + LANES <= n; c += LANES) {
    const Floats e = exp(load(x + c) - shift);
    store(out + c, e);
    total += e;
  }
  float whole = sum(total);
  if (const int left = (int)(n - c)) {
    store(out + c, exp(load(x + c, left) - shift), left);
    for (size_t i = c; i < n; i++) whole += out[i];
  }
  const Floats scale = broadcast(1.0f / whole);
  for (c = 0; c + LANES <= n; c += LANES) store(out + c, load(out + c) * scale);
  for (; c < n; c++) out[c] *= scale[0];
}

void gradient(const float* y, const float* d_y, float* d_x, size_t n) {
  Floats total = {};
  size_t c = 0;
  for (; c + LANES <= n; c += LANES) total = fma(load(y + c), load(d_y + c), total);
  const int left = (int)(n - c);
  if (left) total = fma(load(y + c, left), load(d_y + c, left), total);
  const Floats mean = broadcast(sum(total));
  for (c = 0; c + LANES <= n; c += LANES) store(d_x + c, load(y + c) * (load(d_y + c) - mean));
  if (left) store(d_x + c, load(y + c, left) * (load(d_y + c, left) - mean), left);
}

} // namespace

extern const SoftmaxTable softmax_table{softmax, gradient};

} // namespace mlx_llamba::SIMD_LEVEL
