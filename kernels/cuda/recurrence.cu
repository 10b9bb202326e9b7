// The recurrence of ../metal/recurrence.metal on tensor cores, with the same inputs and outputs.
//
// A block has `tile` rows of the state S of one head of one sequence and walks its chunks of 64 tokens in
// order. S stays in the registers of its 8 warps from the first token to the last; a copy for each chunk
// goes to shared memory, where all of them read it. With s[t] the sum of the logarithms of the decays from
// the start of the chunk up to t, a chunk is
//   out[t] = 2^s[t] S w[t] + sum_{j <= t} 2^(s[t] - s[j]) (v[j] . w[t]) u[j]
//   S      = 2^s[63] S + sum_j 2^(s[63] - s[j]) u[j] (outer) v[j]
// A warp has 16 tokens and half of the rows of `out`, and its part of S. The factors of products are
// rounded to 10 bits of mantissa (TF32), as MLX's own float32 products are on these GPUs; sums are float32.
// A token's logarithm is cut off at -100, where nothing is left in float32, so that sums stay small enough
// for their differences. Tokens after the end have decay 1 and u = v = w = 0.
//
// Template: h, hu, hv, hw, u_row, u_at, v_row, v_at, w_row, w_at, rows (even), columns, reverse as there;
// tile (32 or 64), and width: the columns, rounded up to a power of two.

constexpr int q = 64;
constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int tiles = (rows + tile - 1) / tile;
// Rows that are 8 or 24 words longer than a multiple of 32: what the lanes of a warp load together lies in
// different banks, with the orders of tokens chosen below.
constexpr int u_width = tile + 8;
constexpr int v_width = width + 8;
// Parts of S: a warp has 16 rows and s_columns columns.
constexpr int s_rows = tile / 16;
constexpr int s_columns = width * s_rows / warps;
constexpr int y_columns = tile / 2;
static_assert(threads % tile == 0 && threads % width == 0 && s_columns % 8 == 0 && rows % 2 == 0);

extern __shared__ __align__(16) char shared[];
unsigned* const us = reinterpret_cast<unsigned*>(shared);  // (q, tile), TF32 as all that follow
unsigned* const vs = us + q * u_width;                     // (q, width)
unsigned* const ws = vs + q * v_width;                     // (q, width)
unsigned* const states = ws + q * v_width;                 // S (tile, width)
float* const sums = reinterpret_cast<float*>(states + tile * v_width);  // s (q)

const int self = threadIdx.x;
const int lane = self % 32;
const int warp = self / 32;
const int of_row = lane / 4;
const int of_column = lane % 4 * 2;

const int l = a_shape[1];
const int row0 = blockIdx.x % tiles * tile;
const int head = blockIdx.x / tiles % h;
const long sequence = blockIdx.x / (tiles * h);
const auto* u_head = u + sequence * l * u_row + u_at + head * hu / h * rows + row0;
const auto* v_head = v + sequence * l * v_row + v_at + head * hv / h * columns;
const auto* w_head = w + sequence * l * w_row + w_at + head * hw / h * columns;
const float* a_head = a + sequence * l * h + head;

// The place among eight tokens of the one that an eight's `n`th column stands for.
const auto order = [](int n) { return n ^ (n >> 2 & 1); };

// The next chunk on its way into registers: a thread has a column, of every `u_step`th or `v_step`th token.
constexpr int u_step = threads / tile;
constexpr int v_step = threads / width;
constexpr int ahead = reverse ? -1 : 1;
const int u_column = self % tile;
const int v_column = self % width;
const int u_token = self / tile;
const int v_token = self / width;
float next_u[q / u_step];
float next_v[q / v_step];
float next_w[q / v_step];
float next_a[2];
const auto fetch = [&](int start) {
  const long u_first = reverse ? l - 1 - start - u_token : start + u_token;
  const long v_first = reverse ? l - 1 - start - v_token : start + v_token;
  const auto* from_u = u_head + u_first * u_row + u_column;
  const auto* from_v = v_head + v_first * v_row + v_column;
  const auto* from_w = w_head + v_first * w_row + v_column;
  const int u_left = row0 + u_column < rows ? l - start - u_token : 0;
  const int v_left = v_column < columns ? l - start - v_token : 0;
  UNROLL
  for (int i = 0; i < q / u_step; ++i) {
    next_u[i] = i * u_step < u_left ? float(from_u[ahead * i * u_step * u_row]) : 0.0f;
  }
  UNROLL
  for (int i = 0; i < q / v_step; ++i) {
    next_v[i] = i * v_step < v_left ? float(from_v[ahead * i * v_step * v_row]) : 0.0f;
    next_w[i] = i * v_step < v_left ? float(from_w[ahead * i * v_step * w_row]) : 0.0f;
  }
  UNROLL
  for (int i = 0; i < 2; ++i) {
    const int step = start + 2 * lane + i;
    const long t = reverse ? l - step : step;
    next_a[i] = step < l && t < l ? a_head[t * h] : 1.0f;
  }
};

// This warp's part of S: rows s_row + of_row and + 8, columns s_column + 8 j + of_column and + 1.
const int s_row = warp % s_rows * 16;
const int s_column = warp / s_rows * s_columns;
const long state0 = ((sequence * h + head) * rows + row0) * columns;
float S[s_columns / 8][4];
UNROLL
for (int j = 0; j < s_columns / 8; ++j) {
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = s_row + of_row + i / 2 * 8;
    const int column = s_column + j * 8 + of_column + i % 2;
    const bool inside = row0 + row < rows && column < columns;
    S[j][i] = inside ? start[state0 + row * columns + column] : 0.0f;
  }
}
const int y_row = warp % 4 * 16;
const int y_column = warp / 4 * y_columns;

fetch(0);
for (int done = 0; done < l; done += q) {
  __syncthreads();
  UNROLL
  for (int i = 0; i < q / u_step; ++i) {
    us[(i * u_step + u_token) * u_width + u_column] = tf32(next_u[i]);
  }
  UNROLL
  for (int i = 0; i < q / v_step; ++i) {
    vs[(i * v_step + v_token) * v_width + v_column] = tf32(next_v[i]);
    ws[(i * v_step + v_token) * v_width + v_column] = tf32(next_w[i]);
  }
  UNROLL
  for (int j = 0; j < s_columns / 8; ++j) {
    UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = s_row + of_row + i * 8;
      *reinterpret_cast<uint2*>(states + row * v_width + s_column + j * 8 + of_column) =
          make_uint2(tf32(S[j][2 * i]), tf32(S[j][2 * i + 1]));
    }
  }
  if (warp == 0) {
    const float first = fmaxf(log2f(next_a[0]), -100.0f);
    const float second = fmaxf(log2f(next_a[1]), -100.0f);
    float sum = first + second;
    UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
      const float before = __shfl_up_sync(0xffffffffu, sum, distance);
      sum += lane >= distance ? before : 0.0f;
    }
    sums[2 * lane] = sum - second;
    sums[2 * lane + 1] = sum;
  }
  __syncthreads();
  fetch(done + q);

  // W S^T and W V^T.
  float Y[y_columns / 8][4] = {};
  float M[q / 8][4] = {};
  UNROLL
  for (int step = 0; step < width / 8; ++step) {
    const unsigned* from = ws + (y_row + of_row) * v_width + step * 8 + of_column;
    const uint2 upper = *reinterpret_cast<const uint2*>(from);
    const uint2 lower = *reinterpret_cast<const uint2*>(from + 8 * v_width);
    const unsigned of_w[4] = {upper.x, lower.x, upper.y, lower.y};
    UNROLL
    for (int j = 0; j < y_columns / 8; ++j) {
      const uint2 pair = *reinterpret_cast<const uint2*>(
          states + (y_column + j * 8 + of_row) * v_width + step * 8 + of_column);
      mma8(Y[j], of_w, pair.x, pair.y);
    }
    UNROLL
    for (int J = 0; J < q / 8; ++J) {
      if (J * 8 < y_row + 16) {
        const uint2 pair = *reinterpret_cast<const uint2*>(
            vs + (J * 8 + order(of_row)) * v_width + step * 8 + of_column);
        mma8(M[J], of_w, pair.x, pair.y);
      }
    }
  }
  const float of_t[2] = {sums[y_row + of_row], sums[y_row + of_row + 8]};
  UNROLL
  for (int j = 0; j < y_columns / 8; ++j) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
      Y[j][i] *= exp2f(of_t[i / 2]);
    }
  }
  UNROLL
  for (int J = 0; J < q / 8; ++J) {
    if (J * 8 < y_row + 16) {
      const int tokens[2] = {J * 8 + order(of_column), J * 8 + order(of_column + 1)};
      unsigned m[4];
      UNROLL
      for (int i = 0; i < 4; ++i) {
        const int t = y_row + of_row + i / 2 * 8;
        const int s = tokens[i % 2];
        const float decay = s <= t ? exp2f(of_t[i / 2] - sums[s]) : 0.0f;
        // From the order of a result to that of an operand: columns before rows.
        m[i / 2 + i % 2 * 2] = tf32(M[J][i] * decay);
      }
      UNROLL
      for (int j = 0; j < y_columns / 8; ++j) {
        const unsigned* from = us + y_column + j * 8 + of_row;
        mma8(Y[j], m, from[tokens[0] * u_width], from[tokens[1] * u_width]);
      }
    }
  }
  UNROLL
  for (int i = 0; i < 2; ++i) {
    const int step = done + y_row + of_row + i * 8;
    if (step < l) {
      const long t = sequence * l + (reverse ? l - 1 - step : step);
      UNROLL
      for (int j = 0; j < y_columns / 8; ++j) {
        const int row = row0 + y_column + j * 8 + of_column;
        if (row < rows) {
          *reinterpret_cast<float2*>(out + (t * h + head) * rows + row) =
              make_float2(Y[j][2 * i], Y[j][2 * i + 1]);
        }
      }
    }
  }

  // S.
  const float all = sums[q - 1];
  UNROLL
  for (int j = 0; j < s_columns / 8; ++j) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
      S[j][i] *= exp2f(all);
    }
  }
  UNROLL
  for (int J = 0; J < q / 8; ++J) {
    const int tokens[2] = {J * 8 + lane % 4, J * 8 + lane % 4 + 4};
    unsigned of_u[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
      const int token = tokens[i / 2];
      const unsigned value = us[token * u_width + s_row + of_row + i % 2 * 8];
      of_u[i] = tf32(__uint_as_float(value) * exp2f(all - sums[token]));
    }
    UNROLL
    for (int j = 0; j < s_columns / 8; ++j) {
      const unsigned* from = vs + s_column + j * 8 + of_row;
      mma8(S[j], of_u, from[tokens[0] * v_width], from[tokens[1] * v_width]);
    }
  }
}

const float factor = reverse ? a_head[0] : 1.0f;
UNROLL
for (int j = 0; j < s_columns / 8; ++j) {
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = s_row + of_row + i / 2 * 8;
    const int column = s_column + j * 8 + of_column + i % 2;
    if (row0 + row < rows && column < columns) {
      last[state0 + row * columns + column] = factor * S[j][i];
    }
  }
}
