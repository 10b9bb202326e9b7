// A mixer between its projections for many tokens of 16-bit floats: convolution, chunked recurrence
// and gate in one launch, matrix products on tensor cores. d_inner, conv_dim and the width of a row
// are multiples of 8, n of 16.
//
// Template: T the activations; h g p n k the sizes; split_A_log, ragged, has_conv_bias, has_z_bias,
// silu_conv; tile columns of x in a block (a multiple of 16 that divides p; chosen in cuda/scan.rs).
//
// A block has `tile` rows of the state H (p, n) of one head of one sequence and walks its chunks of 64
// tokens in order. H stays in the registers of its 8 warps from the first token to the last, and a
// copy for each chunk goes to shared memory, where all of them read it. Per chunk, with
// P[t, s] = prod_{s<k<=t} a_k:
//   1. the rows of the chunk have been copied to shared memory in the background; lanes convolve two
//      channels of x, B or C each, a warp 8 tokens;
//   2. a warp has 16 tokens and half of the columns of Y = P[t, before] C H^T + (P o C B^T) X + D X;
//   3. a warp has its part of H = P[63, before] H + (P[63, s] X)^T B.
// C B^T is of 16-bit floats as they are stored. What the others multiply in float32 is rounded to 10
// bits of mantissa, as MLX's own float32 products are on these GPUs. Decays are powers of two of
// differences of sums; a token's logarithm is cut off at -100, where nothing is left in float32, so
// that sums stay small enough for their differences.
// Tokens after the end of a row have decay 1 and x = B = C = 0.

constexpr int q = 64;
constexpr int warps = 8;
constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int parts = p / tile;
constexpr int channels = tile + 2 * n;
constexpr int pairs = channels / 2;
constexpr int rounds = (pairs + 31) / 32;
constexpr int segment = q / warps;
// Rows 16 bytes longer than they need be: neighbours in a column lie in different banks.
constexpr int x_width = tile + 8;
constexpr int b_width = n + 8;
constexpr int h_width = n + 4;
// Parts of H: a warp has 16 rows and h_columns columns.
constexpr int h_rows = tile / 16;
constexpr int h_columns = n * h_rows / warps;
constexpr int y_columns = tile / 2;
static_assert(tile % 16 == 0 && p % tile == 0 && n % 16 == 0 && h_columns % 8 == 0);

extern __shared__ __align__(16) char shared[];
T* const raw = reinterpret_cast<T*>(shared);            // (k - 1 + q, channels), inputs
T* const X = raw + (q + 8) * channels;                  // (q, tile)
T* const B = X + q * x_width;                           // (q, n)
T* const C = B + q * b_width;                           // (q, n)
float* const states = reinterpret_cast<float*>(C + q * b_width);  // H (tile, n)
float* const sums = states + tile * h_width;            // log2 of P[t, before] (q)
static_assert(k <= 9, "the convolution's inputs of before fit");

const int self = threadIdx.x;
const int lane = self % 32;
const int warp = self / 32;
const int of_row = lane / 4;
const int of_column = lane % 4 * 2;

const int part = blockIdx.x % parts;
const int head = blockIdx.x / parts % h;
const long batch = blockIdx.x / (parts * h);
const int group = head / (h / g);
const int l = rows_shape[1];
const int real = ragged ? min(max(int(lengths[batch]), 0), l) : l;
const int channel0 = head * p + part * tile;
// B and C of a group belong to all tiles of its heads: the first one writes their state.
const bool first = part == 0 && head % (h / g) == 0;
const T* const row0 = rows + batch * l * width;

// A channel of the block in a row of inputs.
const auto channel_of = [&](int c) {
  return c < tile ? channel0 + c
                  : d_inner + (c < tile + n ? 0 : g * n - n) + group * n + (c - tile);
};

// Copies the inputs of the chunk at `start` to shared memory.
const auto fetch = [&](int start) {
  constexpr int copies = channels / 8;
  for (int i = self; i < q * copies; i += warps * 32) {
    const int t = i / copies;
    const int c = i % copies * 8;
    const bool inside = start + t < real;
    const T* from = row0 + long(inside ? start + t : 0) * width + channel_of(c);
    copy16(raw + (k - 1 + t) * channels + c, from, inside);
  }
};

float taps[rounds][2][k];
float shift[rounds][2];
UNROLL
for (int round = 0; round < rounds; ++round) {
  UNROLL
  for (int side = 0; side < 2; ++side) {
    const int c = min(2 * (32 * round + lane) + side, channels - 1);
    const int channel = channel_of(c);
    shift[round][side] = has_conv_bias ? float(conv_bias[channel]) : 0.0f;
    UNROLL
    for (int i = 0; i < k; ++i) {
      taps[round][side][i] = float(conv_weight[channel * k + i]);
    }
  }
}
for (int i = self; i < (k - 1) * channels; i += warps * 32) {
  raw[i] = conv[(batch * (k - 1) + i / channels) * conv_dim + channel_of(i % channels)];
}
fetch(0);

// This warp's part of H: rows h_row + of_row and + 8, columns h_column + 8 j + of_column and + 1.
const int h_row = warp % h_rows * 16;
const int h_column = warp / h_rows * h_columns;
const long state0 = (batch * d_inner + channel0) * n;
float H[h_columns / 8][4];
UNROLL
for (int j = 0; j < h_columns / 8; ++j) {
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = h_row + of_row + i / 2 * 8;
    const int column = h_column + j * 8 + of_column + i % 2;
    H[j][i] = ssm[state0 + row * n + column];
    states[row * h_width + column] = H[j][i];
  }
}

// This warp's part of Y: rows y_row + of_row and + 8, columns y_column + 8 j + of_column and + 1.
const int y_row = warp % 4 * 16;
const int y_column = warp / 4 * y_columns;
const float skip = float(D[head]);

int start = 0;
do {
  // 1. Convolution; the first warp also sums the decays.
  copies_arrived();
  __syncthreads();
  if (warp == 0) {
    float logs[2];
    UNROLL
    for (int i = 0; i < 2; ++i) {
      const int t = start + 2 * lane + i;
      logs[i] = 0.0f;
      if (t < real) {
        const float A = split_A_log ? float(A_log[(batch * l + t) * h + head])
                                    : float(row0[long(t) * width + conv_dim + d_inner + head]);
        const float softplus = fmaxf(A, 0.0f) + log1pf(expf(-fabsf(A)));
        logs[i] = fmaxf(-softplus * 1.4426950408889634f, -100.0f);
      }
    }
    float sum = logs[0] + logs[1];
    UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
      const float before = __shfl_up_sync(0xffffffffu, sum, distance);
      sum += lane >= distance ? before : 0.0f;
    }
    sums[2 * lane] = sum - logs[1];
    sums[2 * lane + 1] = sum;
  }
  unsigned kept[rounds][k];
  UNROLL
  for (int round = 0; round < rounds; ++round) {
    const int c = 2 * (32 * round + lane);
    if (c < channels) {
      const T* from = raw + warp * segment * channels + c;
      T* to = c < tile ? X + c : c < tile + n ? B + c - tile : C + c - tile - n;
      const int to_width = c < tile ? x_width : b_width;
      float window[2][k];
      UNROLL
      for (int i = 0; i < k - 1; ++i) {
        const float2 v = floats_of(T(), pair_at(from + i * channels));
        window[0][i] = v.x;
        window[1][i] = v.y;
      }
      UNROLL
      for (int t = 0; t < segment; ++t) {
        const float2 v = floats_of(T(), pair_at(from + (k - 1 + t) * channels));
        window[0][k - 1] = v.x;
        window[1][k - 1] = v.y;
        float out[2];
        UNROLL
        for (int side = 0; side < 2; ++side) {
          float sum = shift[round][side];
          UNROLL
          for (int i = 0; i < k; ++i) {
            sum = fmaf(window[side][i], taps[round][side][i], sum);
          }
          out[side] = silu_conv ? silu_of(sum) : sum;
          UNROLL
          for (int i = 0; i < k - 1; ++i) {
            window[side][i] = window[side][i + 1];
          }
        }
        const int token = warp * segment + t;
        const unsigned pair = start + token < real ? pair_of(T(), out[0], out[1]) : 0u;
        *reinterpret_cast<unsigned*>(to + token * to_width) = pair;
      }
      UNROLL
      for (int i = 0; i < k - 1; ++i) {
        kept[round][i] = pair_at(from + (segment + i) * channels);
      }
    }
  }
  __syncthreads();

  // The inputs of before move to the front while the next chunk's are copied behind them.
  if (start + q < real) {
    if (warp == warps - 1) {
      UNROLL
      for (int round = 0; round < rounds; ++round) {
        const int c = 2 * (32 * round + lane);
        UNROLL
        for (int i = 0; i < k - 1; ++i) {
          if (c < channels) {
            *reinterpret_cast<unsigned*>(raw + i * channels + c) = kept[round][i];
          }
        }
      }
    }
    fetch(start + q);
  } else {
    for (int i = self; i < (k - 1) * channels; i += warps * 32) {
      const int c = i % channels;
      if (c < tile || first) {
        conv_out[(batch * (k - 1) + i / channels) * conv_dim + channel_of(c)] =
            raw[(real - start) * channels + i];
      }
    }
  }

  // 2. Y, beginning with what comes from before the chunk.
  const float from_start[2] = {exp2f(sums[y_row + of_row]), exp2f(sums[y_row + of_row + 8])};
  float Y[y_columns / 8][4] = {};
  float M[q / 8][4] = {};
  UNROLL
  for (int step = 0; step < n / 16; ++step) {
    unsigned c16[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
      c16[i] = pair_at(
          C + (y_row + of_row + i % 2 * 8) * b_width + step * 16 + i / 2 * 8 + of_column);
    }
    UNROLL
    for (int J = 0; J < q / 8; ++J) {
      if (J * 8 < y_row + 16) {
        const T* from = B + (J * 8 + of_row) * b_width + step * 16 + of_column;
        mma16(T(), M[J], c16, pair_at(from), pair_at(from + 8));
      }
    }
    UNROLL
    for (int half = 0; half < 2; ++half) {
      const float2 upper = floats_of(T(), c16[2 * half]);
      const float2 lower = floats_of(T(), c16[2 * half + 1]);
      const unsigned c8[4] = {
          __float_as_uint(upper.x), __float_as_uint(lower.x), __float_as_uint(upper.y),
          __float_as_uint(lower.y)};
      UNROLL
      for (int j = 0; j < y_columns / 8; ++j) {
        const float2 v = *reinterpret_cast<const float2*>(
            states + (y_column + j * 8 + of_row) * h_width + step * 16 + half * 8 + of_column);
        mma8(Y[j], c8, tf32(v.x), tf32(v.y));
      }
    }
  }
  UNROLL
  for (int j = 0; j < y_columns / 8; ++j) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
      Y[j][i] *= from_start[i / 2];
    }
  }
  UNROLL
  for (int J = 0; J < q / 8; ++J) {
    if (J * 8 < y_row + 16) {
      unsigned m[4];
      UNROLL
      for (int i = 0; i < 4; ++i) {
        const int t = y_row + of_row + i / 2 * 8;
        const int s = J * 8 + of_column + i % 2;
        const float decay = s <= t ? exp2f(sums[t] - sums[s]) : 0.0f;
        // From the order of a result to that of an operand: columns before rows.
        m[i / 2 + i % 2 * 2] = tf32(M[J][i] * decay);
      }
      UNROLL
      for (int j = 0; j < y_columns / 8; ++j) {
        const T* from = X + (J * 8 + of_column) * x_width + y_column + j * 8 + of_row;
        mma8(Y[j], m, __float_as_uint(float(from[0])), __float_as_uint(float(from[x_width])));
      }
    }
  }
  UNROLL
  for (int i = 0; i < 2; ++i) {
    const int t = y_row + of_row + i * 8;
    if (start + t < real) {
      const T* token = row0 + long(start + t) * width + conv_dim;
      T* out = y + (batch * l + start + t) * d_inner;
      UNROLL
      for (int j = 0; j < y_columns / 8; ++j) {
        const int c = y_column + j * 8 + of_column;
        const float2 x = floats_of(T(), pair_at(X + t * x_width + c));
        const float2 z = floats_of(T(), pair_at(token + channel0 + c));
        const float left = has_z_bias ? float(z_bias[channel0 + c]) : 0.0f;
        const float right = has_z_bias ? float(z_bias[channel0 + c + 1]) : 0.0f;
        *reinterpret_cast<unsigned*>(out + channel0 + c) = pair_of(
            T(), fmaf(skip, x.x, Y[j][2 * i]) * silu_of(z.x + left),
            fmaf(skip, x.y, Y[j][2 * i + 1]) * silu_of(z.y + right));
      }
    }
  }

  // 3. H.
  const float last = sums[q - 1];
  const float whole = exp2f(last);
  UNROLL
  for (int j = 0; j < h_columns / 8; ++j) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
      H[j][i] *= whole;
    }
  }
  UNROLL
  for (int J = 0; J < q / 8; ++J) {
    const int s = J * 8 + of_column;
    const float to_end[2] = {exp2f(last - sums[s]), exp2f(last - sums[s + 1])};
    unsigned x[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
      const T* from = X + (s + i / 2) * x_width + h_row + of_row + i % 2 * 8;
      x[i] = tf32(float(*from) * to_end[i / 2]);
    }
    UNROLL
    for (int j = 0; j < h_columns / 8; ++j) {
      const T* from = B + s * b_width + h_column + j * 8 + of_row;
      mma8(H[j], x, __float_as_uint(float(from[0])), __float_as_uint(float(from[b_width])));
    }
  }
  start += q;
  if (start < real) {
    __syncthreads();
    UNROLL
    for (int j = 0; j < h_columns / 8; ++j) {
      UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = h_row + of_row + i * 8;
        *reinterpret_cast<float2*>(states + row * h_width + h_column + j * 8 + of_column) =
            make_float2(H[j][2 * i], H[j][2 * i + 1]);
      }
    }
  }
} while (start < real);

for (int i = self; i < (l - real) * tile; i += warps * 32) {
  y[(batch * l + real + i / tile) * d_inner + channel0 + i % tile] = T(0.0f);
}
UNROLL
for (int j = 0; j < h_columns / 8; ++j) {
  UNROLL
  for (int i = 0; i < 2; ++i) {
    const long at =
        state0 + (h_row + of_row + i * 8) * n + h_column + j * 8 + of_column;
    *reinterpret_cast<float2*>(ssm_out + at) = make_float2(H[j][2 * i], H[j][2 * i + 1]);
  }
}
// Without a convolution state its output is a stand-in of one element.
if (k == 1 && blockIdx.x == 0 && self == 0) {
  conv_out[0] = T(0.0f);
}
