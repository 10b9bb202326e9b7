// out (b, l, h, rows): S[t] w[t], where S (rows, columns) is the state of a head,
//   S[t] = a[t] S[t-1] + u[t] (outer) v[t]
// from `start`, and `last` is S after the last token. In reverse it is
//   S[t] = a[t+1] S[t+1] + u[t] (outer) v[t]
// from the last token on, where `start` takes the place of a[l] S[l], and `last` is a[0] S[0].
//
// u (b, l, hu, rows), v (b, l, hv, columns), w (b, l, hw, columns), each inside rows of `u_row` elements
// from `u_at` on and so forth; a (b, l, h), start and last (b, h, rows, columns). The heads of u, v and w
// serve equal numbers of neighbouring heads. With other arrays in the places of u, v and w the same
// recurrence gives all gradients: see mixer_gradient.rs.
//
// A simdgroup has a tile of rows; `lanes` neighbours share a row, a thread has `per` of them.
// Template: h, hu, hv, hw, u_row, u_at, v_row, v_at, w_row, w_at, rows, columns, lanes, per, steps (tokens
// in threadgroup memory), reverse.

constexpr int held = (columns + lanes - 1) / lanes;
constexpr int width = held * lanes;
constexpr int tile = 32 / lanes * per;
constexpr int tiles = (rows + tile - 1) / tile;
threadgroup float us[steps][tile];
threadgroup float vs[steps][width];
threadgroup float ws[steps][width];
threadgroup float factors[steps];

const int l = a_shape[1];
const int block = int(threadgroup_position_in_grid.x);
const int row0 = block % tiles * tile;
const int head = block / tiles % h;
const long sequence = block / (tiles * h);
const int self = int(thread_position_in_threadgroup.x);
const int lane = self % lanes;
const int own = self / lanes * per;
const long state0 = ((sequence * h + head) * rows + row0 + own) * columns;

float S[per][held];
UNROLL
for (int i = 0; i < per; ++i) {
  UNROLL
  for (int j = 0; j < held; ++j) {
    const int column = j * lanes + lane;
    const bool inside = row0 + own + i < rows && column < columns;
    S[i][j] = inside ? start[state0 + i * columns + column] : 0.0f;
  }
}
for (int done = 0; done < l; done += steps) {
  const int count = min(steps, l - done);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int k = self; k < count * width; k += 32) {
    const int step = k / width;
    const int column = k % width;
    const long t = sequence * l + (reverse ? l - 1 - done - step : done + step);
    const bool inside = column < columns;
    vs[step][column] = inside ? float(v[t * v_row + v_at + head * hv / h * columns + column]) : 0.0f;
    ws[step][column] = inside ? float(w[t * w_row + w_at + head * hw / h * columns + column]) : 0.0f;
  }
  for (int k = self; k < count * tile; k += 32) {
    const int step = k / tile;
    const int row = k % tile;
    const long t = sequence * l + (reverse ? l - 1 - done - step : done + step);
    const bool inside = row0 + row < rows;
    us[step][row] = inside ? float(u[t * u_row + u_at + head * hu / h * rows + row0 + row]) : 0.0f;
  }
  for (int step = self; step < count; step += 32) {
    const int t = reverse ? l - done - step : done + step;
    factors[step] = t < l ? a[(sequence * l + t) * h + head] : 1.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int step = 0; step < count; ++step) {
    const float factor = factors[step];
    float sums[per] = {};
    UNROLL
    for (int j = 0; j < held; ++j) {
      const float in_v = vs[step][j * lanes + lane];
      const float in_w = ws[step][j * lanes + lane];
      UNROLL
      for (int i = 0; i < per; ++i) {
        S[i][j] = fma(S[i][j], factor, us[step][own + i] * in_v);
        sums[i] = fma(S[i][j], in_w, sums[i]);
      }
    }
    const long t = sequence * l + (reverse ? l - 1 - done - step : done + step);
    UNROLL
    for (int i = 0; i < per; ++i) {
      UNROLL
      for (int distance = lanes / 2; distance > 0; distance /= 2) {
        sums[i] += simd_shuffle_xor(sums[i], distance);
      }
      if (lane == 0 && row0 + own + i < rows) {
        out[(t * h + head) * rows + row0 + own + i] = sums[i];
      }
    }
  }
}
const float factor = reverse ? a[sequence * l * h + head] : 1.0f;
UNROLL
for (int i = 0; i < per; ++i) {
  UNROLL
  for (int j = 0; j < held; ++j) {
    const int column = j * lanes + lane;
    if (row0 + own + i < rows && column < columns) {
      last[state0 + i * columns + column] = factor * S[i][j];
    }
  }
}
