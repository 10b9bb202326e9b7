// The gradients of what a mixer has besides its recurrence: with respect to its rows and the inputs of
// the convolution before them, and the parts of those with respect to its weights. See
// mixer_gradient.rs for the arrays.
//
// A thread has `span` tokens of a column of the rows, from the last one to the first. It requests a few of them
// before it computes with the first: their stores would hold up later loads.
// Template: T the activations; h g p n k the sizes; width (of the rows, which may end with padding, whose gradient
// is 0); split_A_log, has_starts, has_conv_bias, has_z_bias, silu_conv; span.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int used = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int columns = conv_dim + d_inner + h;
constexpr int ahead = 4;

const int l = rows_shape[1];
const int spans = (l + span - 1) / span;
const int id = int(thread_position_in_grid.x);
const int column = id % columns;
const int part = id / columns;
const int sequence = part / spans;
if (sequence >= rows_shape[0]) {
  return;
}
const int first = part % spans * span;
const int end = min(first + span, l);
const long token0 = long(sequence) * l;

if (column >= conv_dim + d_inner) {
  const int head = column - conv_dim - d_inner;
  for (int t = first; t < end; ++t) {
    const long token = token0 + t;
    const float A = split_A_log ? float(A_log[token * h + head])
                                : float(rows[token * width + conv_dim + d_inner + head]);
    const float by_log_a = by_decays[(long(sequence) * h + head) * l + t];
    const float d = has_starts && starts[token] != 0 ? 0.0f : -sigmoid_of(A) * by_log_a;
    if (split_A_log) {
      d_A_log[token * h + head] = T(d);
    } else {
      d_rows[token * width + conv_dim + d_inner + head] = T(d);
    }
    for (int i = used + head; i < width; i += h) {
      d_rows[token * width + i] = T(0.0f);
    }
  }
  if (!split_A_log && part == 0 && head == 0) {
    d_A_log[0] = T(0.0f);
  }
  return;
}

if (column >= conv_dim) {
  const int channel = column - conv_dim;
  const float skip = float(D[channel / p]);
  const float shift = has_z_bias ? float(z_bias[channel]) : 0.0f;
  float by_shift = 0.0f;
  float by_skip = 0.0f;
  for (int t0 = first; t0 < end; t0 += ahead) {
    float zs[ahead];
    float by_outs[ahead];
    float xs[ahead];
    float ys[ahead];
    UNROLL
    for (int j = 0; j < ahead; ++j) {
      // The last ones again, past the end.
      const long token = token0 + min(t0 + j, end - 1);
      zs[j] = float(rows[token * width + column]) + shift;
      by_outs[j] = float(d_out[token * d_inner + channel]);
      xs[j] = float(mixed[token * conv_dim + channel]);
      ys[j] = y[token * d_inner + channel];
    }
    UNROLL
    for (int j = 0; j < ahead; ++j) {
      if (t0 + j < end) {
        const float s = sigmoid_of(zs[j]);
        const float gated = fma(skip, xs[j], ys[j]);
        const float d = by_outs[j] * gated * s * fma(zs[j], 1.0f - s, 1.0f);
        d_rows[(token0 + t0 + j) * width + column] = T(d);
        by_shift += d;
        by_skip = fma(by_outs[j] * zs[j] * s, xs[j], by_skip);
      }
    }
  }
  d_gate[(long(part) * 2) * d_inner + channel] = by_shift;
  d_gate[(long(part) * 2 + 1) * d_inner + channel] = by_skip;
  return;
}

float taps[k];
UNROLL
for (int i = 0; i < k; ++i) {
  taps[i] = float(conv_weight[column * k + i]);
}
const float shift = has_conv_bias ? float(conv_bias[column]) : 0.0f;
const float skip = column < d_inner ? float(D[column / p]) : 0.0f;
// The head's row of B or C among those of its group.
const int j = column < d_inner ? 0 : (column - d_inner) % (g * n);
const int head0 = j / n * (h / g);

float later[k];     // gradients with respect to the sums of the tokens s, s + 1 ...
float by_taps[k];
UNROLL
for (int i = 0; i < k; ++i) {
  later[i] = 0.0f;
  by_taps[i] = 0.0f;
}
float by_shift = 0.0f;
bool reaches_end = true;
const int last = first == 0 ? -(k - 1) : first;
for (int s0 = min(end + k - 1, l) - 1; s0 >= last; s0 -= ahead) {
  float by_sums[ahead];
  float inputs[ahead];
  bool cuts[ahead];
  UNROLL
  for (int a = 0; a < ahead; ++a) {
    const int s = s0 - a;
    const long token = token0 + s;
    // No token before a start has to do with those after it.
    cuts[a] = has_starts && s >= max(last, -1) && s + 1 < l && starts[token + 1] != 0;
    by_sums[a] = 0.0f;
    if (s >= max(last, 0)) {
      if (column < d_inner) {
        const long at = token * d_inner + column;
        by_sums[a] = fma(skip, float(dy[at]), dx[at]);
      } else {
        for (int head = head0; head < head0 + h / g; ++head) {
          const long at = (token * h + head) * n + j % n;
          by_sums[a] += column < d_inner + g * n ? dB[at] : dC[at];
        }
      }
    }
    inputs[a] = 0.0f;
    if (s >= last && s < end) {
      inputs[a] = s < 0 ? float(conv[(long(sequence) * (k - 1) + s + k - 1) * conv_dim + column])
                        : float(rows[token * width + column]);
    }
  }
  UNROLL
  for (int a = 0; a < ahead; ++a) {
    const int s = s0 - a;
    const long token = token0 + s;
    reaches_end = reaches_end && !cuts[a];
    UNROLL
    for (int i = k - 1; i > 0; --i) {
      later[i] = cuts[a] ? 0.0f : later[i - 1];
    }
    later[0] = 0.0f;
    if (s >= max(last, 0)) {
      float d = by_sums[a];
      if (silu_conv) {
        float sum = fma(float(rows[token * width + column]), taps[k - 1], shift);
        bool within = !(has_starts && starts[token] != 0);
        UNROLL
        for (int i = 1; i < k; ++i) {
          const int t = s - i;
          if (within) {
            const float input = t < 0
                ? float(conv[(long(sequence) * (k - 1) + t + k - 1) * conv_dim + column])
                : float(rows[(token0 + t) * width + column]);
            sum = fma(input, taps[k - 1 - i], sum);
            within = !(has_starts && t >= 0 && starts[token0 + max(t, 0)] != 0);
          }
        }
        const float sigmoid = sigmoid_of(sum);
        d *= sigmoid * fma(sum, 1.0f - sigmoid, 1.0f);
      }
      later[0] = d;
    }
    if (s >= last && s < end) {
      if (s >= 0) {
        by_shift += later[0];
      }
      float d = 0.0f;
      UNROLL
      for (int i = 0; i < k; ++i) {
        d = fma(taps[k - 1 - i], later[i], d);
        by_taps[k - 1 - i] = fma(inputs[a], later[i], by_taps[k - 1 - i]);
      }
      if (s >= l - (k - 1) && reaches_end) {
        d += float(d_kept[(long(sequence) * (k - 1) + s - l + k - 1) * conv_dim + column]);
      }
      if (s < 0) {
        d_conv[(long(sequence) * (k - 1) + s + k - 1) * conv_dim + column] = T(d);
      } else {
        d_rows[token * width + column] = T(d);
      }
    }
  }
}
UNROLL
for (int i = 0; i < k; ++i) {
  d_taps[(long(part) * (k + 1) + i) * conv_dim + column] = by_taps[i];
}
d_taps[(long(part) * (k + 1) + k) * conv_dim + column] = by_shift;
