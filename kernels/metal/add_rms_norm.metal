// sum (m, d) = x + y, normed (m, d) = sum / rms(sum) * weight. A threadgroup has a row, which stays
// in its registers between the two passes.
// Template: T, d, reads (adjacent elements that a thread reads, a divisor of d), simdgroups, epsilon
// (the bits of a float).

constexpr int threads = 32 * simdgroups;
constexpr int turns = (d + threads * reads - 1) / (threads * reads);
threadgroup float squares[simdgroups];

const long row0 = long(threadgroup_position_in_grid.x) * d;
const int self = thread_position_in_threadgroup.x;

float values[turns * reads] = {};
float square = 0.0f;
UNROLL
for (int turn = 0; turn < turns; ++turn) {
  const int column = (turn * threads + self) * reads;
  if (column < d) {
    UNROLL
    for (int i = 0; i < reads; ++i) {
      // The norm is of the rounded sum, which the next residual connection reads.
      const T v = T(float(x[row0 + column + i]) + float(y[row0 + column + i]));
      sum[row0 + column + i] = v;
      values[turn * reads + i] = float(v);
      square = fma(float(v), float(v), square);
    }
  }
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
    UNROLL
    for (int i = 0; i < reads; ++i) {
      normed[row0 + column + i] =
          T(values[turn * reads + i] * scale * float(weight[column + i]));
    }
  }
}
