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
// A threadgroup has a tile of the rows of a head; `lanes` neighbours share `per` rows. While it computes
// `steps` tokens out of threadgroup memory, the next ones are on their way into registers.
// Template: h, hu, hv, hw, u_row, u_at, v_row, v_at, w_row, w_at, rows, columns, lanes, per, steps,
// simdgroups, reverse.

constexpr int held = (columns + lanes - 1) / lanes;
constexpr int width = held * lanes;
constexpr int threads = 32 * simdgroups;
constexpr int tile = threads / lanes * per;
constexpr int tiles = (rows + tile - 1) / tile;
constexpr int fetched = (steps * width + threads - 1) / threads;
constexpr int fetched_u = (steps * tile + threads - 1) / threads;
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
const int in_u = u_at + head * hu / h * rows + row0;
const int in_v = v_at + head * hv / h * columns;
const int in_w = w_at + head * hw / h * columns;

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
for (int done = -steps; done < l; done += steps) {
  float next_v[fetched];
  float next_w[fetched];
  float next_u[fetched_u];
  const int ahead = done + steps;
  UNROLL
  for (int i = 0; i < fetched; ++i) {
    const int k = i * threads + self;
    const int step = ahead + k / width;
    const int column = k % width;
    const long t = sequence * l + (reverse ? l - 1 - step : step);
    const bool inside = k / width < steps && step < l && column < columns;
    next_v[i] = inside ? float(v[t * v_row + in_v + column]) : 0.0f;
    next_w[i] = inside ? float(w[t * w_row + in_w + column]) : 0.0f;
  }
  UNROLL
  for (int i = 0; i < fetched_u; ++i) {
    const int k = i * threads + self;
    const int step = ahead + k / tile;
    const int row = k % tile;
    const long t = sequence * l + (reverse ? l - 1 - step : step);
    const bool inside = k / tile < steps && step < l && row0 + row < rows;
    next_u[i] = inside ? float(u[t * u_row + in_u + row]) : 0.0f;
  }
  float next_factor = 1.0f;
  if (self < steps && ahead + self < l) {
    const int t = reverse ? l - ahead - self : ahead + self;
    next_factor = t < l ? a[(sequence * l + t) * h + head] : 1.0f;
  }

  const int count = done < 0 ? 0 : min(steps, l - done);
  for (int step = 0; step < count; ++step) {
    const float factor = factors[step];
    float sums[per] = {};
    UNROLL
    for (int j = 0; j < held; ++j) {
      const float of_v = vs[step][j * lanes + lane];
      const float of_w = ws[step][j * lanes + lane];
      UNROLL
      for (int i = 0; i < per; ++i) {
        S[i][j] = fma(S[i][j], factor, us[step][own + i] * of_v);
        sums[i] = fma(S[i][j], of_w, sums[i]);
      }
    }
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < per; ++i) {
      UNROLL
      for (int distance = lanes / 2; distance > 0; distance /= 2) {
        sums[i] += simd_shuffle_xor(sums[i], distance);
      }
      sum = lane == i ? sums[i] : sum;
    }
    const long t = sequence * l + (reverse ? l - 1 - done - step : done + step);
    if (lane < per && row0 + own + lane < rows) {
      out[(t * h + head) * rows + row0 + own + lane] = sum;
    }
  }

  threadgroup_barrier(mem_flags::mem_threadgroup);
  UNROLL
  for (int i = 0; i < fetched; ++i) {
    const int k = i * threads + self;
    if (k < steps * width) {
      vs[k / width][k % width] = next_v[i];
      ws[k / width][k % width] = next_w[i];
    }
  }
  UNROLL
  for (int i = 0; i < fetched_u; ++i) {
    const int k = i * threads + self;
    if (k < steps * tile) {
      us[k / tile][k % tile] = next_u[i];
    }
  }
  if (self < steps) {
    factors[self] = next_factor;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
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
