// A mixer between its projections, token after token: split, convolution, decay, state update,
// C product, D skip and gate in one dispatch.
//
// Template: T the activations; h g p n k the sizes; split_A_log, ragged, has_conv_bias, has_z_bias,
// silu_conv; tile_rows, tokens, held, simdgroups (chosen in step.rs).
//
// The state is h*p rows of n floats; the rows of a group of heads are adjacent. A threadgroup has
// up to tile_rows rows of one group of one sequence. Per block of `tokens` tokens:
//   1. its threads convolve the channels x of their rows and B, C of the group, once for all rows;
//   2. a simdgroup holds `held` rows in registers, lanes along n, and processes tokens in order;
//   3. the threads gate and write y along the channels.
// All loads from device memory are issued before the first barrier.
//
// Every multiply-add is an fma, so that no compiler may round it differently for another `tokens`:
// a block of tokens gives the bits of single steps.

constexpr int group_rows = h / g * p;
constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int threads = 32 * simdgroups;
constexpr int columns = (n + 31) / 32;
constexpr int channels = tile_rows + 2 * n;
// The rows of a tile may begin and end inside a head.
constexpr int heads = h / g < tile_rows / p + 2 ? h / g : tile_rows / p + 2;

threadgroup float mixed[tokens * channels];  // x (then y) | B | C
threadgroup float gates[tokens * tile_rows];
threadgroup float decays[tokens * heads];
threadgroup float skips[heads];

const int batch = threadgroup_position_in_grid.z;
const int group = threadgroup_position_in_grid.y;
const int first = int(threadgroup_position_in_grid.x) * tile_rows;
const int count = min(tile_rows, group_rows - first);
const int self = thread_position_in_threadgroup.x;
const int lane = thread_index_in_simdgroup;
const int simdgroup_id = simdgroup_index_in_threadgroup;

const int l = rows_shape[1];
const int real = ragged ? clamp(int(lengths[batch]), 0, l) : l;
const long token0 = long(batch) * l;
const int channel0 = group * group_rows + first;
const int head0 = first / p;
const long state0 = (long(batch) * d_inner + channel0) * n;

float state[held][columns];
load_rows<n>(state, ssm + state0, simdgroup_id * held, count, lane);

for (int i = self; i < heads; i += threads) {
  skips[i] = head0 + i < h / g ? float(D[group * (h / g) + head0 + i]) : 0.0f;
}

int start = 0;
do {
  const int block = min(tokens, real - start);

  // 1. Channels x | B | C | gate.
  for (int c = self; c < channels + tile_rows; c += threads) {
    const int row = c < tile_rows ? c : c - channels;
    if (row >= count) {
      continue;
    }
    if (c >= channels) {
      const int channel = channel0 + row;
      const float shift = has_z_bias ? float(z_bias[channel]) : 0.0f;
      for (int t = 0; t < block; ++t) {
        const float z = float(rows[(token0 + start + t) * width + conv_dim + channel]);
        gates[t * tile_rows + row] = silu_of(z + shift);
      }
      continue;
    }
    const int j = c - tile_rows;
    const int channel =
        c < tile_rows ? channel0 + c : d_inner + (j / n) * (g * n) + group * n + j % n;
    float taps[k];
    float window[k];
    UNROLL
    for (int i = 0; i < k; ++i) {
      taps[i] = float(conv_weight[channel * k + i]);
    }
    UNROLL
    for (int i = 0; i < k - 1; ++i) {
      const int t = start + i - (k - 1);
      window[i] = t < 0 ? float(conv[(long(batch) * (k - 1) + t + k - 1) * conv_dim + channel])
                        : float(rows[(token0 + t) * width + channel]);
    }
    const float shift = has_conv_bias ? float(conv_bias[channel]) : 0.0f;
    for (int t = 0; t < block; ++t) {
      const float input = float(rows[(token0 + start + t) * width + channel]);
      const float sum = convolve(window, taps, input, shift);
      mixed[t * channels + c] = silu_conv ? silu_of(sum) : sum;
    }
    // The tiles of a group share B and C: the first one writes their state.
    if (start + block == real && (c < tile_rows || first == 0)) {
      UNROLL
      for (int i = 0; i < k - 1; ++i) {
        conv_out[(long(batch) * (k - 1) + i) * conv_dim + channel] = T(window[i]);
      }
    }
  }
  for (int i = self; i < block * heads; i += threads) {
    const int head = head0 + i % heads;
    if (head < h / g) {
      const long token = token0 + start + i / heads;
      const int place = group * (h / g) + head;
      const float A = split_A_log ? float(A_log[token * h + place])
                                  : float(rows[token * width + conv_dim + d_inner + place]);
      decays[i] = sigmoid_of(-A);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // 2. H = a H + x (outer) B, y = H C + D x.
  for (int row0 = simdgroup_id * held; row0 < count; row0 += simdgroups * held) {
    if (start > 0) {
      load_rows<n>(state, ssm_out + state0, row0, count, lane);
    } else if (row0 != simdgroup_id * held) {
      load_rows<n>(state, ssm + state0, row0, count, lane);
    }
    int head[held];
    float skip[held];
    UNROLL
    for (int i = 0; i < held; ++i) {
      const int row = min(row0 + i, count - 1);
      head[i] = (first + row) / p - head0;
      skip[i] = skips[head[i]];
    }
    for (int t = 0; t < block; ++t) {
      float B[columns];
      float C[columns];
      UNROLL
      for (int j = 0; j < columns; ++j) {
        const int column = 32 * j + lane;
        B[j] = column < n ? mixed[t * channels + tile_rows + column] : 0.0f;
        C[j] = column < n ? mixed[t * channels + tile_rows + n + column] : 0.0f;
      }
      float y_of_lane = 0.0f;
      UNROLL
      for (int i = 0; i < held; ++i) {
        const float x = mixed[t * channels + min(row0 + i, count - 1)];
        const float a = decays[t * heads + head[i]];
        float sum = 0.0f;
        UNROLL
        for (int j = 0; j < columns; ++j) {
          state[i][j] = fma(x, B[j], a * state[i][j]);
          sum = fma(state[i][j], C[j], sum);
        }
        sum = simd_sum(sum);
        if (lane == i) {
          y_of_lane = fma(skip[i], x, sum);
        }
      }
      // All lanes have read x before y overwrites it.
      simdgroup_barrier(mem_flags::mem_threadgroup);
      if (lane < held && row0 + lane < count) {
        mixed[t * channels + row0 + lane] = y_of_lane;
      }
    }
    UNROLL
    for (int i = 0; i < held; ++i) {
      UNROLL
      for (int j = 0; j < columns; ++j) {
        const int column = 32 * j + lane;
        if (row0 + i < count && column < n) {
          ssm_out[state0 + long(row0 + i) * n + column] = state[i][j];
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // 3. The gate.
  for (int i = self; i < block * tile_rows; i += threads) {
    const int t = i / tile_rows;
    const int row = i % tile_rows;
    if (row < count) {
      y[(token0 + start + t) * d_inner + channel0 + row] =
          T(mixed[t * channels + row] * gates[i]);
    }
  }
  start += tokens;
  if (start < real) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
} while (start < real);

for (int i = self; i < (l - real) * tile_rows; i += threads) {
  if (i % tile_rows < count) {
    y[(token0 + real + i / tile_rows) * d_inner + channel0 + i % tile_rows] = T(0.0f);
  }
}
// Without a convolution state its output has one element without meaning.
if (k == 1 && batch == 0 && group == 0 && first == 0 && self == 0) {
  conv_out[0] = T(0.0f);
}
