// A mixer between its projections for many tokens: convolution, chunked recurrence and gate in one
// dispatch. p and n are multiples of 8.
//
// Template: T the activations; h g p n k the sizes; split_A_log, ragged, has_conv_bias, has_z_bias,
// silu_conv; q tokens of a chunk, strips, simdgroups (chosen in scan.rs).
//
// A threadgroup has one head of one sequence and processes its chunks in order. The state H (p, n)
// stays in registers from the first token to the last: a simdgroup owns `strips` strips of 8 rows,
// as 8x8 matrices. Per chunk, with P[t, s] the product of the decays after s up to t:
//   1. threads convolve a channel of x, B or C each; the k-1 inputs that the next chunk needs stay
//      in their registers;
//   2. simdgroups share M = P o (C B^T), lower triangle only;
//   3. each computes, transposed, its rows of Y = P[t, before] C H^T + M X + D X, then of
//      H = P[q-1, before] H + (P[q-1, s] X)^T B; Y overwrites X;
//   4. threads gate and write Y along the channels.
// Decays are multiplied, never divided, and no logarithms are subtracted: strong forgetting
// underflows to zero and later tokens stay exact. Tokens after the end of a row have decay 1 and
// x = B = C = 0.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int threads = 32 * simdgroups;
constexpr int channels = p + 2 * n;
constexpr int passes = (channels + threads - 1) / threads;
// Rows are padded by 16 bytes so that transposed reads spread over the banks.
constexpr int x_width = p + 16 / int(sizeof(T));
constexpr int b_width = n + 16 / int(sizeof(T));
constexpr int m_width = q + 4;
constexpr int at_once = 8;

threadgroup T X[q * x_width];
threadgroup T B[q * b_width];
threadgroup T C[q * b_width];
threadgroup float M[q * m_width];
threadgroup float decays[q];
threadgroup float from_start[q];
threadgroup float to_end[q];
threadgroup float z_shift[p];

const int batch = threadgroup_position_in_grid.z;
const int head = threadgroup_position_in_grid.y;
const int group = head / (h / g);
const int self = thread_position_in_threadgroup.x;
const int simdgroup_id = simdgroup_index_in_threadgroup;
const short2 place = place_of(thread_index_in_simdgroup);
const bool owner = simdgroup_id * strips * 8 < p;

const int l = rows_shape[1];
const int real = ragged ? clamp(int(lengths[batch]), 0, l) : l;
const long token0 = long(batch) * l;
const float skip = float(D[head]);

// The channels of this thread: their positions, taps and last inputs.
int channel[passes];
float shift[passes];
float taps[passes][k];
float window[passes][k];
UNROLL
for (int pass = 0; pass < passes; ++pass) {
  const int c = pass * threads + self;
  const int j = c - p;
  channel[pass] = c < p ? head * p + c : d_inner + (j / n) * (g * n) + group * n + j % n;
  const bool mine = c < channels;
  shift[pass] = mine && has_conv_bias ? float(conv_bias[channel[pass]]) : 0.0f;
  UNROLL
  for (int i = 0; i < k; ++i) {
    const bool kept = mine && i < k - 1;
    taps[pass][i] = mine ? float(conv_weight[channel[pass] * k + i]) : 0.0f;
    window[pass][i] =
        kept ? float(conv[(long(batch) * (k - 1) + i) * conv_dim + channel[pass]]) : 0.0f;
  }
}
for (int i = self; i < p; i += threads) {
  z_shift[i] = has_z_bias ? float(z_bias[head * p + i]) : 0.0f;
}

simdgroup_float8x8 H[strips][n / 8];
const long state0 = ((long(batch) * h + head) * p + simdgroup_id * strips * 8) * n;
if (owner) {
  UNROLL
  for (int i = 0; i < strips; ++i) {
    UNROLL
    for (int j = 0; j < n / 8; ++j) {
      H[i][j] = load8x8(ssm + (state0 + i * 8 * n + j * 8), n, 1, place);
    }
  }
}

for (int start = 0; start < real; start += q) {
  // 1. Convolution.
  UNROLL
  for (int pass = 0; pass < passes; ++pass) {
    const int c = pass * threads + self;
    if (c < channels) {
      for (int t0 = 0; t0 < q; t0 += at_once) {
        float raw[at_once];
        UNROLL
        for (int i = 0; i < at_once; ++i) {
          const int t = start + t0 + i;
          raw[i] = t < real ? float(rows[(token0 + t) * width + channel[pass]]) : 0.0f;
        }
        UNROLL
        for (int i = 0; i < at_once; ++i) {
          const int t = t0 + i;
          float value = 0.0f;
          if (start + t < real) {
            const float sum = convolve(window[pass], taps[pass], raw[i], shift[pass]);
            value = silu_conv ? silu_of(sum) : sum;
          }
          if (c < p) {
            X[t * x_width + c] = T(value);
          } else if (c < p + n) {
            B[t * b_width + c - p] = T(value);
          } else {
            C[t * b_width + c - p - n] = T(value);
          }
        }
      }
    }
  }
  // The last threads have the fewest channels.
  const int t_of_decay = self - (threads - q);
  if (t_of_decay >= 0) {
    const long token = token0 + start + t_of_decay;
    float a = 1.0f;
    if (start + t_of_decay < real) {
      const float A = split_A_log ? float(A_log[token * h + head])
                                  : float(rows[token * width + conv_dim + d_inner + head]);
      a = sigmoid_of(-A);
    }
    decays[t_of_decay] = a;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // 2. Products of decays, and M.
  if (t_of_decay >= 0) {
    float before = decays[0];
    float after = 1.0f;
    for (int t = 1; t < q; ++t) {
      before *= t <= t_of_decay ? decays[t] : 1.0f;
      after *= t > t_of_decay ? decays[t] : 1.0f;
    }
    from_start[t_of_decay] = before;
    to_end[t_of_decay] = after;
  }
  int turn = 0;
  for (int I = 0; I < q / 8; ++I) {
    for (int J = 0; J <= I; ++J) {
      if (turn++ % simdgroups != simdgroup_id) {
        continue;
      }
      simdgroup_float8x8 scores = zero8x8();
      UNROLL
      for (int j = 0; j < n / 8; ++j) {
        simdgroup_float8x8 left = load8x8(C + (I * 8 * b_width + j * 8), b_width, 1, place);
        simdgroup_float8x8 right = load8x8(B + (J * 8 * b_width + j * 8), 1, b_width, place);
        simdgroup_multiply_accumulate(scores, left, right, scores);
      }
      const int t = I * 8 + place.y;
      const int s = J * 8 + place.x;
      float P = 1.0f;
      for (int i = s + 2; i <= t; ++i) {
        P *= decays[i];
      }
      M[t * m_width + s] =
          s <= t ? scores.thread_elements()[0] * (s < t ? P * decays[s + 1] : 1.0f) : 0.0f;
      M[t * m_width + s + 1] = s < t ? scores.thread_elements()[1] * P : 0.0f;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // 3. Y and H, transposed: H is the left factor, as it is in the registers.
  if (owner) {
    const int column0 = simdgroup_id * strips * 8;
    simdgroup_float8x8 X_T[strips][q / 8];
    simdgroup_float8x8 Y_T[strips][q / 8];
    UNROLL
    for (int i = 0; i < strips; ++i) {
      UNROLL
      for (int J = 0; J < q / 8; ++J) {
        X_T[i][J] = load8x8(X + (J * 8 * x_width + column0 + i * 8), 1, x_width, place);
      }
    }
    UNROLL
    for (int I = 0; I < q / 8; ++I) {
      const int t = I * 8 + place.x;
      UNROLL
      for (int i = 0; i < strips; ++i) {
        Y_T[i][I] = zero8x8();
      }
      UNROLL
      for (int j = 0; j < n / 8; ++j) {
        simdgroup_float8x8 C_T =
            load8x8(C + (I * 8 * b_width + j * 8), 1, b_width, place);
        UNROLL
        for (int i = 0; i < strips; ++i) {
          simdgroup_multiply_accumulate(Y_T[i][I], H[i][j], C_T, Y_T[i][I]);
        }
      }
      UNROLL
      for (int i = 0; i < strips; ++i) {
        Y_T[i][I] = scale8x8(Y_T[i][I], from_start[t], from_start[t + 1]);
      }
      // Constant bounds: a loop to I might not be unrolled, and registers cannot be indexed.
      UNROLL
      for (int J = 0; J < q / 8; ++J) {
        if (J <= I) {
          simdgroup_float8x8 M_T = load8x8(M + (I * 8 * m_width + J * 8), 1, m_width, place);
          UNROLL
          for (int i = 0; i < strips; ++i) {
            simdgroup_multiply_accumulate(Y_T[i][I], X_T[i][J], M_T, Y_T[i][I]);
          }
        }
      }
    }
    const float whole = from_start[q - 1];
    UNROLL
    for (int i = 0; i < strips; ++i) {
      UNROLL
      for (int j = 0; j < n / 8; ++j) {
        H[i][j] = scale8x8(H[i][j], whole, whole);
      }
    }
    // Every lane has its part of X in registers before Y overwrites it.
    simdgroup_barrier(mem_flags::mem_threadgroup);
    UNROLL
    for (int J = 0; J < q / 8; ++J) {
      const int s = J * 8 + place.x;
      simdgroup_float8x8 weighted[strips];
      UNROLL
      for (int i = 0; i < strips; ++i) {
        const int at = s * x_width + column0 + i * 8 + place.y;
        X[at] = T(fma(skip, X_T[i][J].thread_elements()[0], Y_T[i][J].thread_elements()[0]));
        X[at + x_width] =
            T(fma(skip, X_T[i][J].thread_elements()[1], Y_T[i][J].thread_elements()[1]));
        weighted[i] = scale8x8(X_T[i][J], to_end[s], to_end[s + 1]);
      }
      UNROLL
      for (int j = 0; j < n / 8; ++j) {
        simdgroup_float8x8 B_J =
            load8x8(B + (J * 8 * b_width + j * 8), b_width, 1, place);
        UNROLL
        for (int i = 0; i < strips; ++i) {
          simdgroup_multiply_accumulate(H[i][j], weighted[i], B_J, H[i][j]);
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // 4. The gate.
  for (int i = self; i < q * p; i += threads) {
    const int t = i / p;
    const int c = head * p + i % p;
    if (start + t < real) {
      const long token = token0 + start + t;
      const float z = float(rows[token * width + conv_dim + c]);
      const float gate = silu_of(z + z_shift[i % p]);
      y[token * d_inner + c] = T(float(X[t * x_width + i % p]) * gate);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

for (int i = self; i < (l - real) * p; i += threads) {
  y[(token0 + real + i / p) * d_inner + head * p + i % p] = T(0.0f);
}
// The heads of a group share B and C: the first one writes their state.
UNROLL
for (int pass = 0; pass < passes; ++pass) {
  const int c = pass * threads + self;
  if (c < p || (c < channels && head % (h / g) == 0)) {
    UNROLL
    for (int i = 0; i < k - 1; ++i) {
      conv_out[(long(batch) * (k - 1) + i) * conv_dim + channel[pass]] = T(window[pass][i]);
    }
  }
}
if (owner) {
  UNROLL
  for (int i = 0; i < strips; ++i) {
    UNROLL
    for (int j = 0; j < n / 8; ++j) {
      const long at = state0 + (i * 8 + place.y) * n + j * 8 + place.x;
      ssm_out[at] = H[i][j].thread_elements()[0];
      ssm_out[at + 1] = H[i][j].thread_elements()[1];
    }
  }
}
// Without a convolution state its output has one element without meaning.
if (k == 1 && batch == 0 && head == 0 && self == 0) {
  conv_out[0] = T(0.0f);
}
