// <dy, y> - <x, dx> of each token and head, (b, h, l), where dx is the gradient through the recurrence
// alone; and, at the last token, `at_end` (b, h) more. See mixer_gradient.rs.
//
// A simdgroup has a token and a head.
// Template: h g p n the sizes.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;

const int l = y_shape[1];
const int id = int(thread_position_in_grid.x) / 32;
const int lane = int(thread_position_in_grid.x) % 32;
const int head = id % h;
const long token = id / h;
if (token < long(y_shape[0]) * l) {
  float sum = 0.0f;
  for (int i = lane; i < p; i += 32) {
    const long at = token * d_inner + head * p + i;
    sum = fma(float(dy[at]), y[at], sum);
    sum = fma(-float(mixed[token * conv_dim + head * p + i]), dx[at], sum);
  }
  sum = simd_sum(sum);
  const int t = int(token % l);
  const long row = token / l * h + head;
  if (lane == 0) {
    sums[row * l + t] = sum + (t == l - 1 ? at_end[row] : 0.0f);
  }
}
