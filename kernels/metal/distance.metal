// norms (m,) = |x + y - target|, the Euclidean norms of rows (m, d), at least the smallest float's root.
// A simdgroup has a row.
// Template: T, U, V (dtypes of x, y, target), d, reads (adjacent elements that a thread reads, a divisor of d).

const int row = int(thread_position_in_grid.x) / 32;
const int lane = int(thread_index_in_simdgroup);
if (row < x_shape[0]) {
  const long row0 = long(row) * d;
  float square = 0.0f;
  for (int column = lane * reads; column < d; column += 32 * reads) {
    float a[reads];
    float b[reads];
    float c[reads];
    read_pack(x, row0 + column, a);
    read_pack(y, row0 + column, b);
    read_pack(target, row0 + column, c);
    UNROLL
    for (int i = 0; i < reads; ++i) {
      const float v = a[i] + b[i] - c[i];
      square = fma(v, v, square);
    }
  }
  square = simd_sum(square);
  if (lane == 0) {
    norms[row] = sqrt(max(square, 1.17549435e-38f));
  }
}
