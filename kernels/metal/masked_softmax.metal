// out (b, h, l, t): the softmax over the last axis of x, 0 where mask (b or 1, 1, l, t) is false. Every row
// of the mask has something true.
//
// A simdgroup has a row.
// Template: T.

const int h = x_shape[1];
const int l = x_shape[2];
const int t = x_shape[3];
const long row = long(thread_position_in_grid.x) / 32;
const int lane = int(thread_position_in_grid.x) % 32;
if (row < long(x_shape[0]) * h * l) {
  const long of_mask = (mask_shape[0] == 1 ? 0 : row / (long(h) * l)) * l + row % l;
  float high = -3.0e38f;
  float sum = 0.0f;
  for (int k = lane; k < t; k += 32) {
    if (mask[of_mask * t + k]) {
      const float v = float(x[row * t + k]);
      const float higher = fmax(high, v);
      sum = sum * exp(high - higher) + exp(v - higher);
      high = higher;
    }
  }
  UNROLL
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = simd_shuffle_xor(high, distance);
    const float others = simd_shuffle_xor(sum, distance);
    const float higher = fmax(high, other);
    sum = sum * exp(high - higher) + others * exp(other - higher);
    high = higher;
  }
  for (int k = lane; k < t; k += 32) {
    const long at = row * t + k;
    out[at] = mask[of_mask * t + k] ? T(exp(float(x[at]) - high) / sum) : T(0.0f);
  }
}
