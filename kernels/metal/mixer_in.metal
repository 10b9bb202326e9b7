// The part of a mixer before its recurrence: the convolution of the channels x | B | C with its
// activation, and the decays sigmoid(-A_log), which are 0 where a document starts. To that token and
// those after it, earlier inputs of the convolution are zeros.
//
// A thread has `span` tokens of a column: of a channel, or of the decay of a head. It requests a few of them
// before it computes with the first: their stores would hold up later loads.
// Template: T the activations; h g p n k the sizes; width (of the rows, which may end with padding);
// split_A_log, has_starts, has_conv_bias, silu_conv; span.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int columns = conv_dim + h;
constexpr int ahead = 8;

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
  for (int t0 = first; t0 < end; t0 += ahead) {
    float A[ahead];
    bool cuts[ahead];
    UNROLL
    for (int j = 0; j < ahead; ++j) {
      // The last ones again, past the end.
      const long token = token0 + min(t0 + j, end - 1);
      A[j] = split_A_log ? float(A_log[token * h + head])
                         : float(rows[token * width + conv_dim + d_inner + head]);
      cuts[j] = has_starts && starts[token] != 0;
    }
    UNROLL
    for (int j = 0; j < ahead; ++j) {
      if (t0 + j < end) {
        decays[(token0 + t0 + j) * h + head] = cuts[j] ? 0.0f : sigmoid_of(-A[j]);
      }
    }
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
for (int t0 = first; t0 < end; t0 += ahead) {
  float inputs[ahead];
  bool cuts[ahead];
  UNROLL
  for (int j = 0; j < ahead; ++j) {
    const long token = token0 + min(t0 + j, end - 1);
    inputs[j] = float(rows[token * width + column]);
    cuts[j] = has_starts && starts[token] != 0;
  }
  UNROLL
  for (int j = 0; j < ahead; ++j) {
    if (t0 + j < end) {
      UNROLL
      for (int i = 0; i < k - 1; ++i) {
        window[i] = cuts[j] ? 0.0f : window[i];
      }
      const float sum = convolve(window, taps, inputs[j], shift);
      mixed[(token0 + t0 + j) * conv_dim + column] = T(silu_conv ? silu_of(sum) : sum);
    }
  }
}
if (end == l) {
  UNROLL
  for (int i = 0; i < k - 1; ++i) {
    kept[(long(sequence) * (k - 1) + i) * conv_dim + column] = T(window[i]);
  }
}
