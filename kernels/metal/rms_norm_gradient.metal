// d_x (m, d), the gradient with respect to x of x / rms(x) * weight, and d_weight (parts, d), the sums of that
// with respect to the weight over `span` rows each, given d_out (m, d). With g = d_out * weight and s = 1 / rms(x)
//   d_x = s g - s^3 mean(g x) x,  d_weight = sum over rows of d_out x s
// With `residual` x is a sum that others read too, and d_sum (m, d), what they give, is added to d_x; with
// `rounded` d_y (m, d) is the same in the other dtype, else one element without meaning.
// A threadgroup has `span` rows, one after the other; a thread has the same columns of all of them.
// Template: T (x, d_x and d_sum), U (d_out and d_y), d, reads (adjacent elements that a thread reads, a divisor of
// d), span, simdgroups, residual, rounded, epsilon (the bits of a float).

constexpr int threads = 32 * simdgroups;
constexpr int turns = (d + threads * reads - 1) / (threads * reads);
// Of two rows by turns: one barrier a row is enough.
threadgroup float squares[2][simdgroups];
threadgroup float products[2][simdgroups];

const int self = thread_position_in_threadgroup.x;
const int lane = thread_index_in_simdgroup;
const int part = threadgroup_position_in_grid.x;
const int end = min(part * span + span, int(x_shape[0]));

float weights[turns][reads] = {};
float by_weight[turns][reads] = {};
UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    read_pack(weight, column, weights[turn]);
  }
}
for (int row = part * span; row < end; ++row) {
  const long row0 = long(row) * d;
  float values[turns][reads] = {};
  float by[turns][reads] = {};
  float from_sum[turns][reads] = {};
  float square = 0.0f;
  float product = 0.0f;
  UNROLL
  for (int turn = 0; turn < turns; ++turn) {
    const int column = (turn * threads + self) * reads;
    if (column < d) {
      read_pack(x, row0 + column, values[turn]);
      read_pack(d_out, row0 + column, by[turn]);
      if (residual) {
        read_pack(d_sum, row0 + column, from_sum[turn]);
      }
      UNROLL
      for (int i = 0; i < reads; ++i) {
        square = fma(values[turn][i], values[turn][i], square);
        product = fma(values[turn][i] * by[turn][i], weights[turn][i], product);
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
      float d_row[reads];
      UNROLL
      for (int i = 0; i < reads; ++i) {
        const float scaled = by[turn][i] * scale;
        d_row[i] = fma(-factor, values[turn][i], fma(scaled, weights[turn][i], from_sum[turn][i]));
        by_weight[turn][i] = fma(scaled, values[turn][i], by_weight[turn][i]);
      }
      write_pack<T>(d_x, row0 + column, d_row);
      if (rounded) {
        write_pack<U>(d_y, row0 + column, d_row);
      }
    }
  }
}
UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    write_pack<float>(d_weight, long(part) * d + column, by_weight[turn]);
  }
}
if (!rounded && part == 0 && self == 0) {
  d_y[0] = U(0.0f);
}
