// The mixer, head by head, as the recurrence it is.
//
// The chunked form of prefill on GPUs trades the recurrence for matrix products: with chunks of q
// tokens it multiplies q (n + p) + 2 p n times per token and head, the recurrence 3 p n times, a
// third more at q = n = p = 64. That pays where matrix units are; here both run in the same lanes,
// and the recurrence is exact in the order of its roundings: a prompt gives the same bits in one
// piece, in any pieces, and token by token.
//
// Tokens are taken in tiles whose convolved x, B, C and decays lie in the first-level cache. Over a
// tile, a few rows of the state stay in registers. No sum depends on where a tile begins.
#include "mixer.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

using Index = ptrdiff_t;

// Rows and vectors of a row of the state that stay in registers: 16 of the 32 that AVX-512 and NEON
// have, 8 of the 16 of the others.
constexpr Index ROWS = 4;
#if defined(SIMD_AVX512) || defined(__ARM_NEON)
constexpr Index VECTORS = 4;
#else
constexpr Index VECTORS = 2;
#endif

INLINE Index padded(Index count) {
  return (count + LANES - 1) / LANES * LANES;
}

INLINE Index least(Index a, Index b) {
  return a < b ? a : b;
}

// `count` may be a whole vector here.
INLINE Floats load_some(const float* from, Index count) {
  return count >= LANES ? load(from) : load(from, (int)count);
}

INLINE void store_some(float* to, Floats value, Index count) {
  if (count >= LANES) store(to, value);
  else store(to, value, (int)count);
}

// Scratch of one head. Rows of x, y are `padded(p)` wide, of B and C `padded(n)`; lanes behind the
// end of B and C are zero, so that sums over them are.
struct Tile {
  Index most; // tokens
  float* taps; // (k, LANES)
  float *x, *B, *C, *a, *y; // (most, width), a (most,)
  float* sums; // (most, ROWS, LANES)

  // 24 KiB for what every row of the state walks over: half of a small first-level cache.
  static Index tokens(const Mixer& m) {
    const Index fit = 6144 / (2 * padded(m.n) + 2 * padded(m.p));
    return fit < 4 ? 4 : least(fit, 64);
  }

  static size_t size(const Mixer& m) {
    const Index p = padded(m.p), n = padded(m.n), most = tokens(m);
    return (size_t)(m.k * LANES + most * (2 * p + 2 * n + ROWS * LANES) + padded(most));
  }

  Tile(const Mixer& m, float* scratch) : most(tokens(m)) {
    const Index p = padded(m.p), n = padded(m.n);
    auto take = [&](Index count) {
      float* taken = scratch;
      scratch += count;
      return taken;
    };
    taps = take(m.k * LANES);
    x = take(most * p), B = take(most * n), C = take(most * n), y = take(most * p);
    a = take(padded(most)), sums = take(most * ROWS * LANES);
  }
};

// One row of the batch as the convolution sees it: the kept inputs, then the tokens.
struct Inputs {
  const float *conv, *tokens;
  Index conv_dim, step, k;

  // Token t of the row; those before the first are -1, -2, ..
  const float* operator()(Index t) const {
    return t < 0 ? conv + (k - 1 + t) * conv_dim : tokens + t * step;
  }
};

// Taps of `count` channels, (count, k) to (k, LANES), zero behind the end. A constant number of taps
// or channels lets the compiler shuffle vectors.
INLINE void transpose_taps(const float* weight, Index count, Index k, float* taps) {
  for (Index tap = 0; tap < k; tap++) {
    for (Index c = 0; c < count; c++) taps[tap * LANES + c] = weight[c * k + tap];
    for (Index c = count; c < LANES; c++) taps[tap * LANES + c] = 0;
  }
}

// Convolves `width` channels from `first` on of tokens `begin..end`; `out` (end - begin, padded).
// `K` is k, or 0 for any.
template <Index K>
void convolve_taps(const Mixer& m, const Inputs& inputs, Index first, Index width, float* taps,
                   Index begin, Index end, float* out) {
  const Index row = padded(width), k = K ? K : m.k;
  for (Index c = 0; c < width; c += LANES) {
    const Index channel = first + c, count = least(width - c, LANES);
    const float* weight = m.conv_weight + channel * k;
    if (count == LANES) transpose_taps(weight, LANES, k, taps);
    else transpose_taps(weight, count, k, taps);
    const Floats bias = m.conv_bias ? load_some(m.conv_bias + channel, count) : Floats{};
    for (Index t = begin; t < end; t++) {
      Floats sum = bias;
      for (Index tap = 0; tap < k; tap++) {
        const Floats input = load_some(inputs(t - (k - 1) + tap) + channel, count);
        sum = fma(input, load(taps + tap * LANES), sum);
      }
      store(out + (t - begin) * row + c, m.silu ? silu(sum) : sum);
    }
  }
}

void convolve(const Mixer& m, const Inputs& inputs, Index first, Index width, float* taps,
              Index begin, Index end, float* out) {
  if (m.k == 4) convolve_taps<4>(m, inputs, first, width, taps, begin, end, out);
  else convolve_taps<0>(m, inputs, first, width, taps, begin, end, out);
}

// What a sweep over the tokens of a tile reads and writes.
struct Sweep {
  Index tokens, n, p; // n and p padded: steps of B, C and of x, y
  const float *x, *B, *C, *a;
  float *y, *sums;
  const float* H; // first row, first column; rows are `H_row` apart
  float* H_out;
  Index H_row;
  Index columns; // from here to the end of the row
  bool first, last; // whether these are the first, the last columns of the row
};

// H = a H + x (outer) B for `R` rows and `V` vectors of columns, and what they add to y = H C.
//
// Lane i of a row's sum takes columns i, i + LANES, .. in turn, however columns are cut into
// blocks; the lanes are added up at the last.
template <Index R, Index V>
void sweep(const Sweep& s) {
  Floats H[R][V];
  // Only the last vector can end early, and V is 1 where there are no others.
  const bool whole = V > 1 || s.columns >= LANES;
  for (Index r = 0; r < R; r++) {
    for (Index v = 0; v < V; v++) {
      const float* from = s.H + r * s.H_row + v * LANES;
      H[r][v] = whole ? load(from) : load(from, (int)s.columns);
    }
  }
  for (Index t = 0; t < s.tokens; t++) {
    const Floats a = broadcast(s.a[t]);
    Floats x[R], sum[R];
    for (Index r = 0; r < R; r++) {
      x[r] = broadcast(s.x[t * s.p + r]);
      sum[r] = s.first ? Floats{} : load(s.sums + (t * R + r) * LANES);
    }
    for (Index v = 0; v < V; v++) {
      const Floats B = load(s.B + t * s.n + v * LANES), C = load(s.C + t * s.n + v * LANES);
      for (Index r = 0; r < R; r++) {
        H[r][v] = fma(a, H[r][v], x[r] * B);
        sum[r] = fma(H[r][v], C, sum[r]);
      }
    }
    if (!s.last) {
      for (Index r = 0; r < R; r++) store(s.sums + (t * R + r) * LANES, sum[r]);
    } else if constexpr (R == 4) {
      const Four four = sums(sum[0], sum[1], sum[2], sum[3]);
      __builtin_memcpy(s.y + t * s.p, &four, sizeof four);
    } else {
      for (Index r = 0; r < R; r++) s.y[t * s.p + r] = SIMD_LEVEL::sum(sum[r]);
    }
  }
  for (Index r = 0; r < R; r++) {
    for (Index v = 0; v < V; v++) {
      float* to = s.H_out + r * s.H_row + v * LANES;
      if (whole) store(to, H[r][v]);
      else store(to, H[r][v], (int)s.columns);
    }
  }
}

template <Index R>
void sweep_row(Sweep s) {
  const Index n = s.columns;
  for (Index column = 0; column < n;) {
    const Index whole = (n - column) / LANES;
    const Index vectors = whole >= VECTORS ? VECTORS : whole >= 2 ? 2 : 1;
    s.first = column == 0;
    s.last = column + vectors * LANES >= n;
    if (vectors == VECTORS) sweep<R, VECTORS>(s);
    else if (vectors == 2) sweep<R, 2>(s);
    else sweep<R, 1>(s);
    column += vectors * LANES;
    s.columns = n - column;
    s.H += vectors * LANES, s.H_out += vectors * LANES;
    s.B += vectors * LANES, s.C += vectors * LANES;
  }
}

// The state of one head (p, n) from before the first to behind the last token of a tile.
void recur(const Mixer& m, const Tile& tile, Index tokens, const float* H, float* H_out) {
  const Sweep all{tokens, padded(m.n), padded(m.p), tile.x, tile.B, tile.C, tile.a, tile.y,
                  tile.sums, H, H_out, m.n, m.n, true, true};
  for (Index j = 0; j < m.p;) {
    Sweep s = all;
    s.x += j, s.y += j;
    s.H += j * m.n, s.H_out += j * m.n;
    if (m.p - j >= ROWS) sweep_row<ROWS>(s), j += ROWS;
    else sweep_row<1>(s), j++;
  }
}

// y = (y + D x) silu(z + z_bias), from scratch to where it belongs.
void gate(const Mixer& m, const Tile& tile, Index tokens, Index head, const float* z, float* y) {
  const Index row = padded(m.p);
  const float* z_bias = m.z_bias ? m.z_bias + head * m.p : nullptr;
  const Floats D = broadcast(m.D[head]);
  for (Index t = 0; t < tokens; t++, z += m.xBCz_token, y += m.d_inner()) {
    for (Index c = 0; c < m.p; c += LANES) {
      const Index count = m.p - c;
      Floats gate = load_some(z + c, count);
      if (z_bias) gate += load_some(z_bias + c, count);
      const Floats sum = fma(D, load(tile.x + t * row + c), load(tile.y + t * row + c));
      store_some(y + c, sum * silu(gate), count);
    }
  }
}

// The k-1 inputs before token `end`, of `width` channels from `first` on.
void keep(const Mixer& m, const Inputs& inputs, Index first, Index width, Index end, float* to) {
  for (Index kept = 0; kept < m.k - 1; kept++) {
    const float* from = inputs(end - (m.k - 1) + kept) + first;
    __builtin_memcpy(to + kept * m.conv_dim() + first, from, (size_t)width * sizeof(float));
  }
}

void head(const Mixer& m, size_t row_, size_t head_, float* scratch) {
  const Index row = (Index)row_, head = (Index)head_;
  const Index per_group = m.h / m.g, group = head / per_group, conv_dim = m.conv_dim();
  const Index first_x = head * m.p, first_B = m.d_inner() + group * m.n, first_C = first_B + m.g * m.n;
  const Index length = m.lengths ? m.lengths[row] : m.l;
  const Index end = length < 0 ? 0 : least(length, m.l);

  const Tile tile(m, scratch);
  const float* tokens = m.xBCz + row * m.xBCz_row;
  const float* conv = m.conv + row * (m.k - 1) * conv_dim;
  const Inputs inputs{conv, tokens, conv_dim, m.xBCz_token, m.k};

  const Index state = (row * m.h + head) * m.p * m.n;
  const float* H = m.ssm + state;
  float* H_out = m.ssm_out + state;
  if (end == 0 && H != H_out) __builtin_memcpy(H_out, H, (size_t)(m.p * m.n) * sizeof(float));
  float* y = m.y + row * m.l * m.d_inner() + first_x;

  for (Index begin = 0; begin < end; begin += tile.most) {
    const Index until = least(begin + tile.most, end), count = until - begin;
    convolve(m, inputs, first_x, m.p, tile.taps, begin, until, tile.x);
    convolve(m, inputs, first_B, m.n, tile.taps, begin, until, tile.B);
    convolve(m, inputs, first_C, m.n, tile.taps, begin, until, tile.C);
    const float* A_log = m.A_log + row * m.A_log_row + begin * m.A_log_token + head;
    for (Index t = 0; t < count; t++) tile.a[t] = -A_log[t * m.A_log_token];
    for (Index t = 0; t < count; t += LANES) {
      store_some(tile.a + t, sigmoid(load_some(tile.a + t, count - t)), count - t);
    }
    recur(m, tile, count, H, H_out);
    H = H_out; // from the second tile on
    gate(m, tile, count, head, tokens + begin * m.xBCz_token + conv_dim + first_x,
         y + begin * m.d_inner());
  }
  for (Index t = end; t < m.l; t++) {
    __builtin_memset(y + t * m.d_inner(), 0, (size_t)m.p * sizeof(float));
  }

  float* conv_out = m.conv_out + row * (m.k - 1) * conv_dim;
  keep(m, inputs, first_x, m.p, end, conv_out);
  // B and C are of the whole group: its first head keeps them.
  if (head % per_group == 0) {
    keep(m, inputs, first_B, m.n, end, conv_out);
    keep(m, inputs, first_C, m.n, end, conv_out);
  }
}

} // namespace

extern const MixerTable mixer_table{Tile::size, head};

} // namespace mlx_llamba::SIMD_LEVEL
