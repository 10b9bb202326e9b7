// The gradients with respect to x and y (m, d) of the norms of distance.metal, given those with respect to the norms,
// d_norms (m,): d_norms / norms * (x + y - target). Without `rounded` x and y have one dtype, and d_y is one element
// without meaning.
// Template: T, U, V (dtypes of x, y, target), d, reads (elements of a thread, a divisor of d), rounded.

constexpr int turns = d / reads;
const int id = int(thread_position_in_grid.x);
const int row = id / turns;
if (row < x_shape[0]) {
  const long at = long(row) * d + id % turns * reads;
  float a[reads];
  float b[reads];
  float c[reads];
  read_pack(x, at, a);
  read_pack(y, at, b);
  read_pack(target, at, c);
  const float by = d_norms[row] / norms[row];
  UNROLL
  for (int i = 0; i < reads; ++i) {
    a[i] = by * (a[i] + b[i] - c[i]);
  }
  write_pack<T>(d_x, at, a);
  if (rounded) {
    write_pack<U>(d_y, at, a);
  } else if (id == 0) {
    d_y[0] = U(0.0f);
  }
}
