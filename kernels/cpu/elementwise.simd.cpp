#include "elementwise.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

// Calls `f(row, column, count)` for the parts of rows of m that make up elements `begin..end`.
template <class F>
INLINE void by_row(size_t m, size_t begin, size_t end, const F& f) {
  for (size_t i = begin; i < end;) {
    const size_t row = i / m, column = i % m;
    const size_t count = m - column < end - i ? m - column : end - i;
    f(row, column, count);
    i += count;
  }
}

// Calls `f(at, whole)` for every vector of `count` elements; the last may have fewer lanes.
template <class F>
INLINE void by_vector(size_t count, const F& f) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) f(c, LANES);
  if (c < count) f(c, (int)(count - c));
}

INLINE Floats get(const float* from, int count) {
  return count == LANES ? load(from) : load(from, count);
}

INLINE void put(float* to, Floats value, int count) {
  if (count == LANES) store(to, value);
  else store(to, value, count);
}

void swiglu(const float* gate, const float* up, size_t stride, float* out, size_t m, size_t begin,
            size_t end) {
  by_row(m, begin, end, [&](size_t row, size_t column, size_t count) {
    const size_t from = row * stride + column, to = row * m + column;
    by_vector(count, [&](size_t c, int lanes) {
      put(out + to + c, silu(get(gate + from + c, lanes)) * get(up + from + c, lanes), lanes);
    });
  });
}

// silu'(v) = s + v s (1 - s), s = sigmoid(v)
void swiglu_gradient(const float* gate, const float* up, size_t stride, const float* d_out, float* d_gate,
                     float* d_up, size_t m, size_t begin, size_t end) {
  by_row(m, begin, end, [&](size_t row, size_t column, size_t count) {
    const size_t from = row * stride + column, of = row * m + column;
    by_vector(count, [&](size_t c, int lanes) {
      const Floats v = get(gate + from + c, lanes), g = get(d_out + of + c, lanes);
      const Floats s = sigmoid(v);
      const Floats vs = v * s;
      put(d_up + from + c, g * vs, lanes);
      put(d_gate + from + c, g * get(up + from + c, lanes) * fma(vs, 1.0f - s, s), lanes);
    });
  });
}

void exp_of(const float* x, float* out, size_t begin, size_t end) {
  by_vector(end - begin, [&](size_t c, int lanes) {
    put(out + begin + c, exp(get(x + begin + c, lanes)), lanes);
  });
}

// The order of the sum is fixed: lanes, then four chains of them, then across.
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

// With r = (mean(v^2) + epsilon)^(-1/2): r w g - v r^3 / d sum(w g v).
void rms_norm_gradient(const float* values, const float* weight, float epsilon, const float* d_normed,
                       const float* d_later, float* d_sum, float* scaled, size_t d) {
  Floats squares = {}, products = {};
  by_vector(d, [&](size_t c, int lanes) {
    const Floats v = get(values + c, lanes);
    squares = fma(v, v, squares);
    products = fma(get(weight + c, lanes) * get(d_normed + c, lanes), v, products);
  });
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / (float)d + epsilon);
  const Floats r = broadcast(scale);
  const Floats along = broadcast(-scale * scale * scale * sum(products) / (float)d);
  by_vector(d, [&](size_t c, int lanes) {
    const Floats v = get(values + c, lanes), g = get(d_normed + c, lanes);
    Floats gradient = fma(v, along, r * get(weight + c, lanes) * g);
    if (d_later) gradient += get(d_later + c, lanes);
    put(d_sum + c, gradient, lanes);
    put(scaled + c, g * v * r, lanes);
  });
}

} // namespace

extern const ElementwiseTable elementwise_table{swiglu, swiglu_gradient, exp_of, add_rms_norm,
                                                rms_norm_gradient};

} // namespace mlx_llamba::SIMD_LEVEL
