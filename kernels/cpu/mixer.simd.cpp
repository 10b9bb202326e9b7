// The mixer, head by head, as a recurrence.
//
// The chunked form of prefill on GPUs replaces the recurrence by matrix multiplications: with chunks of
// q tokens it takes q (n + p) + 2 p n multiplications per token and head, the recurrence 3 p n, which
// is three quarters of that at q = n = p = 64. Chunks pay with matrix units; here both run in the same
// lanes, and the recurrence gives the same bits however a prompt is cut.
//
// Tokens are processed in tiles whose convolved x, B, C and decays fit in the first-level cache. During
// a tile, a few rows of the state stay in registers. No sum depends on where a tile begins.
#include "mixer.h"
#include "mixer_sweep.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

INLINE Index least(Index a, Index b) {
  return a < b ? a : b;
}

// `count` may be a whole vector or more here.
INLINE Floats load_some(const float* from, Index count) {
  return count >= LANES ? load(from) : load(from, (int)count);
}

INLINE void store_some(float* to, Floats value, Index count) {
  if (count >= LANES) store(to, value);
  else store(to, value, (int)count);
}

// Scratch memory of one head. Rows of x and y are `padded(p)` wide, of B and C `padded(n)`; the padding
// of B and C is zero, so that it adds nothing to sums.
struct Tile {
  Index most; // tokens
  float* taps; // (k, LANES)
  float *x, *B, *C, *a, *y; // (most, width), a (most,)
  float* sums; // (most, ROWS, LANES)

  // 24 KiB for the data that every row of the state reads: half of a small first-level cache.
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

// The inputs of the convolution for one row of the batch: the kept inputs, then the tokens.
struct Inputs {
  const float *conv, *tokens;
  Index conv_dim, step, k;

  // Returns token t of the row; the kept inputs are tokens -1, -2, ..
  const float* operator()(Index t) const {
    return t < 0 ? conv + (k - 1 + t) * conv_dim : tokens + t * step;
  }
};

template <size_t... lane>
struct Lanes {};

#if defined(SIMD_AVX512)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(SIMD_AVX2)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

// Numbers at even and at odd places of two vectors.
template <size_t... lane>
INLINE void unzip(Floats a, Floats b, Floats& even, Floats& odd, Lanes<lane...>) {
  even = __builtin_shufflevector(a, b, (2 * lane)...);
  odd = __builtin_shufflevector(a, b, (2 * lane + 1)...);
}

// Transposes the taps of `count` channels, (count, k) to (k, LANES), padded with zeros.
INLINE void transpose_taps(const float* weight, Index count, Index k, float* taps) {
  if (k == 4 && count == LANES) {
    const AllLanes lanes;
    Floats even[2], odd[2], tap[4];
    unzip(load(weight), load(weight + LANES), even[0], odd[0], lanes);
    unzip(load(weight + 2 * LANES), load(weight + 3 * LANES), even[1], odd[1], lanes);
    unzip(even[0], even[1], tap[0], tap[2], lanes);
    unzip(odd[0], odd[1], tap[1], tap[3], lanes);
    for (Index i = 0; i < 4; i++) store(taps + i * LANES, tap[i]);
    return;
  }
  for (Index tap = 0; tap < k; tap++) {
    for (Index c = 0; c < count; c++) taps[tap * LANES + c] = weight[c * k + tap];
    for (Index c = count; c < LANES; c++) taps[tap * LANES + c] = 0;
  }
}

// Convolves `width` channels from `first` on of tokens `begin..end` to `out` (end - begin, padded).
// `K` is k, or 0 for any k.
template <Index K>
void convolve_taps(const Mixer& m, const Inputs& inputs, Index first, Index width, float* taps,
                   Index begin, Index end, float* out) {
  const Index row = padded(width), k = K ? K : m.k;
  for (Index c = 0; c < width; c += LANES) {
    const Index channel = first + c, count = least(width - c, LANES);
    const float* weight = m.conv_weight + channel * k;
    transpose_taps(weight, count, k, taps);
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

// Advances the state of one head (p, n) over the tokens of a tile.
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

// y = (y + D x) silu(z + z_bias), from scratch memory to the output.
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

// Keeps the k-1 inputs before token `end`, of `width` channels from `first` on.
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
  // The heads of a group share B and C: the first one keeps them.
  if (head % per_group == 0) {
    keep(m, inputs, first_B, m.n, end, conv_out);
    keep(m, inputs, first_C, m.n, end, conv_out);
  }
}

} // namespace

extern const MixerTable mixer_table{Tile::size, head};

} // namespace mlx_llamba::SIMD_LEVEL
