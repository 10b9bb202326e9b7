// The recurrence H = a H + x (outer) B, y = H C over the tokens of a tile, for rows of one state.
#pragma once

#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

using Index = ptrdiff_t;

// Rows of the state, and vectors of each, that stay in registers: 16 of the 32 registers of AVX-512 and
// NEON, 8 of the 16 of the others.
constexpr Index ROWS = 4;
#if defined(SIMD_AVX512) || defined(__ARM_NEON)
constexpr Index VECTORS = 4;
#else
constexpr Index VECTORS = 2;
#endif

INLINE Index padded(Index count) {
  return (count + LANES - 1) / LANES * LANES;
}

// The operands of a sweep over the tokens of a tile.
struct Sweep {
  Index tokens, n, p; // n and p padded: steps of B, C and of x, y
  const float *x, *B, *C, *a;
  float *y, *sums;
  const float* H; // first row, first column; rows are `H_row` apart
  float* H_out;
  Index H_row;
  Index columns; // from here to the end of the row
  bool first, last; // these are the first, the last columns of the row
};

// H = a H + x (outer) B for `R` rows and `V` vectors of columns, and their part of y = H C.
//
// Lane i of a row's sum adds columns i, i + LANES, .. in order, however columns are cut into blocks; the
// lanes are added at the end.
template <Index R, Index V>
void sweep(const Sweep& s) {
  Floats H[R][V];
  // Only the last vector can be partial, and then V is 1.
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

} // namespace
} // namespace mlx_llamba::SIMD_LEVEL
