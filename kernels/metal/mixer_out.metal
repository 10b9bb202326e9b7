// The part of a mixer after its recurrence, (y + D x) silu(z + z_bias). In a gradient pass, where
// `by_y` is true, y has the place of the gradient with respect to that, and the result is the gradient
// with respect to y, y silu(z + z_bias).
//
// Template: T the activations; h g p n the sizes; width (of the rows); reads (channels of a thread, a divisor of
// p); split_A_log, has_z_bias, by_y.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int turns = d_inner / reads;

const int id = int(thread_position_in_grid.x);
const int channel = id % turns * reads;
const long token = id / turns;
if (token < long(rows_shape[0]) * rows_shape[1]) {
  float z[reads];
  float values[reads];
  read_pack(rows, token * width + conv_dim + channel, z);
  read_pack(y, token * d_inner + channel, values);
  float x[reads] = {};
  if (!by_y) {
    read_pack(mixed, token * conv_dim + channel, x);
  }
  float shift[reads] = {};
  if (has_z_bias) {
    read_pack(z_bias, channel, shift);
  }
  const float skip = by_y ? 0.0f : float(D[channel / p]);
  UNROLL
  for (int i = 0; i < reads; ++i) {
    values[i] = fma(skip, x[i], values[i]) * silu_of(z[i] + shift[i]);
  }
  write_pack<T>(out, token * d_inner + channel, values);
}
