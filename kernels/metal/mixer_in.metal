// The part of a mixer before its recurrence: the convolution of the channels x | B | C with its
// activation, and the decays sigmoid(-A_log), which are 0 where a document starts. To that token and
// those after it, earlier inputs of the convolution are zeros.
//
// A thread has `span` tokens of a column: of a channel, or of the decay of a head.
// Template: T the activations; h g p n k the sizes; split_A_log, has_starts, has_conv_bias, silu_conv;
// span.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int columns = conv_dim + h;

const int l = rows_shape[1];
const int spans = (l + span - 1) / span;
const int id = int(thread_position_in_grid.x);
const int column = id % columns;
const int sequence = id / columns / spans;
if (sequence >= rows_shape[0]) {
  return;
}
const int first = id / columns % spans * span;
const int end = min(first + span, l);
const long token0 = long(sequence) * l;

if (column >= conv_dim) {
  const int head = column - conv_dim;
  for (long token = token0 + first; token < token0 + end; ++token) {
    const float A = split_A_log ? float(A_log[token * h + head])
                                : float(rows[token * width + conv_dim + d_inner + head]);
    decays[token * h + head] = has_starts && starts[token] != 0 ? 0.0f : sigmoid_of(-A);
  }
  return;
}

float taps[k];
float window[k];
UNROLL
for (int i = 0; i < k; ++i) {
  taps[i] = float(conv_weight[column * k + i]);
}
UNROLL
for (int i = 0; i < k - 1; ++i) {
  const int t = first + i - (k - 1);
  const bool cut = has_starts && t >= 0 && starts[token0 + max(t, 0)] != 0;
  UNROLL
  for (int j = 0; j < i; ++j) {
    window[j] = cut ? 0.0f : window[j];
  }
  window[i] = t < 0 ? float(conv[(long(sequence) * (k - 1) + t + k - 1) * conv_dim + column])
                    : float(rows[(token0 + t) * width + column]);
}
const float shift = has_conv_bias ? float(conv_bias[column]) : 0.0f;
for (long token = token0 + first; token < token0 + end; ++token) {
  const bool cut = has_starts && starts[token] != 0;
  UNROLL
  for (int i = 0; i < k - 1; ++i) {
    window[i] = cut ? 0.0f : window[i];
  }
  const float sum = convolve(window, taps, float(rows[token * width + column]), shift);
  mixed[token * conv_dim + column] = T(silu_conv ? silu_of(sum) : sum);
}
if (end == l) {
  UNROLL
  for (int i = 0; i < k - 1; ++i) {
    kept[(long(sequence) * (k - 1) + i) * conv_dim + column] = T(window[i]);
  }
}
