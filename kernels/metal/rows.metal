// Reads rows row0.. of a matrix with n columns, below `count`, lanes along the columns.
template <int n, int held, int columns, typename From>
METAL_FUNC void load_rows(
    thread float (&state)[held][columns], From from, int row0, int count, int lane) {
  UNROLL
  for (int i = 0; i < held; ++i) {
    UNROLL
    for (int j = 0; j < columns; ++j) {
      const int column = 32 * j + lane;
      const bool inside = row0 + i < count && column < n;
      state[i][j] = inside ? float(from[long(row0 + i) * n + column]) : 0.0f;
    }
  }
}
