#include "elementwise.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

void swiglu(const float* gate_up, float* out, size_t m, size_t begin, size_t end) {
  for (size_t i = begin; i < end;) {
    // What is left of this row, or of the range.
    const size_t row = i / m, column = i % m;
    const size_t count = m - column < end - i ? m - column : end - i;
    const float *gate = gate_up + row * 2 * m + column, *up = gate + m;
    size_t c = 0;
    for (; c + LANES <= count; c += LANES) store(out + i + c, silu(load(gate + c)) * load(up + c));
    if (const int left = (int)(count - c)) {
      store(out + i + c, silu(load(gate + c, left)) * load(up + c, left), left);
    }
    i += count;
  }
}

// The same sum whoever computes it: lanes, then four chains of them, then across.
void add_rms_norm(const float* x, const float* y, const float* weight, float epsilon, float* sum_out,
                  float* normed, size_t d) {
  const float* values = y ? sum_out : x;
  Floats squares[4] = {};
  size_t c = 0;
  const auto value = [&](size_t at) {
    Floats v = load(x + at);
    if (y) {
      v += load(y + at);
      store(sum_out + at, v);
    }
    return v;
  };
  for (; c + 4 * LANES <= d; c += 4 * LANES) {
    for (int chain = 0; chain < 4; chain++) {
      const Floats v = value(c + (size_t)(chain * LANES));
      squares[chain] = fma(v, v, squares[chain]);
    }
  }
  for (; c + LANES <= d; c += LANES) {
    const Floats v = value(c);
    squares[0] = fma(v, v, squares[0]);
  }
  const int left = (int)(d - c);
  if (left) {
    Floats v = load(x + c, left);
    if (y) {
      v += load(y + c, left);
      store(sum_out + c, v, left);
    }
    squares[1] = fma(v, v, squares[1]);
  }
  const float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / (float)d;
  const Floats scale = broadcast(1.0f / __builtin_sqrtf(mean + epsilon));
  for (c = 0; c + LANES <= d; c += LANES) {
    store(normed + c, load(values + c) * scale * load(weight + c));
  }
  if (left) store(normed + c, load(values + c, left) * scale * load(weight + c, left), left);
}

} // namespace

extern const ElementwiseTable elementwise_table{swiglu, add_rms_norm};

} // namespace mlx_llamba::SIMD_LEVEL
