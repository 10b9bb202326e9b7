// sum (m, d) = x + y, normed (m, d) = sum / rms(sum) * weight. Without `residual` there is no y, the norm is that
// of x, and sum is one element without meaning. A threadgroup has a row, which stays in its registers between
// the two passes.
// Template: T (x and sum), U (y and normed), d, reads (adjacent elements that a thread reads, a divisor of d),
// simdgroups, residual, epsilon (the bits of a float).

constexpr int threads = 32 * simdgroups;
constexpr int turns = (d + threads * reads - 1) / (threads * reads);
threadgroup float squares[simdgroups];

const long row0 = long(threadgroup_position_in_grid.x) * d;
const int self = thread_position_in_threadgroup.x;

float values[turns][reads] = {};
float square = 0.0f;
UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    read_pack(x, row0 + column, values[turn]);
    if (residual) {
      float added[reads];
      read_pack(y, row0 + column, added);
      UNROLL
      for (int i = 0; i < reads; ++i) {
        // The norm is of the rounded sum, which the next residual connection reads.
        values[turn][i] = float(T(values[turn][i] + added[i]));
      }
      write_pack<T>(sum, row0 + column, values[turn]);
    }
    UNROLL
    for (int i = 0; i < reads; ++i) {
      square = fma(values[turn][i], values[turn][i], square);
    }
  }
}
if (!residual && row0 == 0 && self == 0) {
  sum[0] = T(0.0f);
}
square = simd_sum(square);
if (thread_index_in_simdgroup == 0) {
  squares[simdgroup_index_in_threadgroup] = square;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
// Every simdgroup adds the parts itself, which saves a second barrier.
const int part = thread_index_in_simdgroup;
const float mean = simd_sum(part < simdgroups ? squares[part] : 0.0f) / float(d);
const float scale = 1.0f / sqrt(mean + as_type<float>(epsilon));

UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    float by[reads];
    read_pack(weight, column, by);
    UNROLL
    for (int i = 0; i < reads; ++i) {
      by[i] *= values[turn][i] * scale;
    }
    write_pack<U>(normed, row0 + column, by);
  }
}
