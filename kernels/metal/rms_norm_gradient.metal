// d_x (m, d), the gradient with respect to x of x / rms(x) * weight, and d_weight (parts, d), the sums of that
// with respect to the weight over `span` rows each, given d_out (m, d). With g = d_out * weight and s = 1 / rms(x)
//   d_x = s g - s^3 mean(g x) x,  d_weight = sum over rows of d_out x s
// A threadgroup has `span` rows, one after the other; a thread has the same columns of all of them.
// Template: T, d, reads (adjacent elements that a thread reads, a divisor of d), span, simdgroups, epsilon
// (the bits of a float).

constexpr int threads = 32 * simdgroups;
constexpr int turns = (d + threads * reads - 1) / (threads * reads);
constexpr int held = turns * reads;
// Of two rows by turns: one barrier a row is enough.
threadgroup float squares[2][simdgroups];
threadgroup float products[2][simdgroups];

const int self = thread_position_in_threadgroup.x;
const int lane = thread_index_in_simdgroup;
const int part = threadgroup_position_in_grid.x;
const int end = min(part * span + span, int(x_shape[0]));

float by_weight[held] = {};
for (int row = part * span; row < end; ++row) {
  const long row0 = long(row) * d;
  float values[held] = {};
  float by[held] = {};
  float square = 0.0f;
  float product = 0.0f;
  UNROLL
  for (int turn = 0; turn < turns; ++turn) {
    const int column = (turn * threads + self) * reads;
    if (column < d) {
      UNROLL
      for (int i = 0; i < reads; ++i) {
        const float v = float(x[row0 + column + i]);
        const float b = float(d_out[row0 + column + i]);
        values[turn * reads + i] = v;
        by[turn * reads + i] = b;
        square = fma(v, v, square);
        product = fma(v * b, float(weight[column + i]), product);
      }
    }
  }
  square = simd_sum(square);
  product = simd_sum(product);
  if (lane == 0) {
    squares[row % 2][simdgroup_index_in_threadgroup] = square;
    products[row % 2][simdgroup_index_in_threadgroup] = product;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float mean = simd_sum(lane < simdgroups ? squares[row % 2][lane] : 0.0f) / float(d);
  const float of_x = simd_sum(lane < simdgroups ? products[row % 2][lane] : 0.0f) / float(d);
  const float scale = 1.0f / sqrt(mean + as_type<float>(epsilon));
  const float factor = scale * scale * scale * of_x;
  UNROLL
  for (int turn = 0; turn < turns; ++turn) {
    const int column = (turn * threads + self) * reads;
    if (column < d) {
      UNROLL
      for (int i = 0; i < reads; ++i) {
        const int at = turn * reads + i;
        const float scaled = by[at] * scale;
        d_x[row0 + column + i] = T(fma(-factor, values[at], scaled * float(weight[column + i])));
        by_weight[at] = fma(scaled, values[at], by_weight[at]);
      }
    }
  }
}
UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    UNROLL
    for (int i = 0; i < reads; ++i) {
      d_weight[long(part) * d + column + i] = by_weight[turn * reads + i];
    }
  }
}
