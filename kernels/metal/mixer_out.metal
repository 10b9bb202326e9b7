// The part of a mixer after its recurrence, (y + D x) silu(z + z_bias). In a gradient pass, where
// `by_y` is true, y has the place of the gradient with respect to that, and the result is the gradient
// with respect to y, y silu(z + z_bias).
//
// Template: T the activations; h g p n the sizes; split_A_log, has_z_bias, by_y.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);

const int id = int(thread_position_in_grid.x);
const int channel = id % d_inner;
const long token = id / d_inner;
if (token < long(rows_shape[0]) * rows_shape[1]) {
  const float z = float(rows[token * width + conv_dim + channel]);
  const float shift = has_z_bias ? float(z_bias[channel]) : 0.0f;
  const float skip = by_y ? 0.0f : float(D[channel / p]) * float(mixed[token * conv_dim + channel]);
  out[id] = T((float(y[id]) + skip) * silu_of(z + shift));
}
