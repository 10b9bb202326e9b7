// Products of a packed matrix with float32 activations. Part of `packed.simd.cpp`.
#pragma once

#include "packed_column.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

// Codes are centered around 0: sums of them are smaller than those of the codes themselves, and lose
// less to rounding.
template <int BITS>
constexpr int CENTER = 1 << (BITS - 1);

// The lowest code of each word, less the center.
template <int BITS>
INLINE Floats centered(Ints words) {
#if defined(SIMD_AVX512)
  // The table lookup uses only the lowest four bits: no mask, no conversion.
  if constexpr (BITS == 4) {
    const Floats numbers = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return _mm512_permutexvar_ps((__m512i)words, numbers);
  }
#endif
  return __builtin_convertvector((words & ((1 << BITS) - 1)) - CENTER<BITS>, Floats);
}

template <int BITS>
INLINE Floats centered_bias(Floats scale, Floats bias) {
  return fma(scale, broadcast((float)CENTER<BITS>), bias);
}

// A row of prepared float32 activations.
struct FloatRow {
  const float *x, *sums;
};

template <int R>
INLINE void float_rows(const PreparedLayout& layout, const Prepared& x, size_t row, FloatRow (&rows)[R]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const size_t at = row + (size_t)r < x.rows ? row + (size_t)r : x.rows - 1;
    const char* from = x.values + at * layout.stride;
    rows[r] = {reinterpret_cast<const float*>(from), reinterpret_cast<const float*>(from + layout.sums)};
  }
}

// C vectors of outputs, R rows at a time.
template <int BITS, int R, int C>
void multiply(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  const PreparedLayout layout = prepared_layout(w, false);
  constexpr int CODES = Column<BITS>::CODES;
  const size_t groups = w.in / w.group, lines = w.group / CODES;
  for (size_t vector = begin; vector < end; vector += C) {
    Column<BITS> columns[C];
    for (int c = 0; c < C; c++) columns[c].begin(w, vector + (size_t)c < end ? vector + (size_t)c : end - 1);
    for (size_t row = 0; row < x.rows; row += R) {
      FloatRow rows[R];
      float_rows(layout, x, row, rows);
      Floats sums[C][R] = {};
      for (size_t group = 0; group < groups; group++) {
        Floats part[C][R] = {};
        for (size_t line = group * lines; line < (group + 1) * lines; line++) {
          Ints words[C];
#pragma GCC unroll 4
          for (int c = 0; c < C; c++) words[c] = columns[c].line(line);
#pragma GCC unroll 8
          for (int code = 0; code < CODES; code++) {
            Floats weights[C];
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) weights[c] = centered<BITS>(words[c] >> (code * BITS));
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
              const Floats value = broadcast(rows[r].x[line * CODES + (size_t)code]);
#pragma GCC unroll 4
              for (int c = 0; c < C; c++) part[c][r] = fma(weights[c], value, part[c][r]);
            }
          }
        }
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
          const size_t at = columns[c].first + group * TILE;
          const Floats scale = load_numbers(w.format, w.scales, at);
          const Floats bias = centered_bias<BITS>(scale, load_numbers(w.format, w.biases, at));
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) sums[c][r] = add_group(sums[c][r], scale, part[c][r], bias, rows[r].sums[group]);
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        if (vector + (size_t)c < end) write(w, sums[c], row, x.rows, vector + (size_t)c, y);
      }
    }
  }
}

template <int BITS>
void multiply(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  begin *= PARTS, end *= PARTS;
  switch (x.rows) {
    case 1: return multiply<BITS, 1, 4>(w, x, y, begin, end);
    case 2: return multiply<BITS, 2, REGISTERS / 8>(w, x, y, begin, end);
    case 3: return multiply<BITS, 3, REGISTERS / 16>(w, x, y, begin, end);
    case 4: return multiply<BITS, 4, REGISTERS / 16>(w, x, y, begin, end);
    default: break;
  }
  if constexpr (REGISTERS == 32) {
    if (x.rows > 6) return multiply<BITS, 8, 1>(w, x, y, begin, end);
    return multiply<BITS, 6, 2>(w, x, y, begin, end);
  }
  multiply<BITS, 4, 1>(w, x, y, begin, end);
}

void multiply_all(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  if (w.bits == 4) return multiply<4>(w, x, y, begin, end);
  multiply<8>(w, x, y, begin, end);
}

// Unpacks the centered codes of numbers [begin, end) of C vectors to lines of C vectors.
template <int BITS, int C>
INLINE void unpack(const Column<BITS> (&columns)[C], size_t begin, size_t end, float* panel) {
  constexpr size_t CODES = (size_t)Column<BITS>::CODES;
  for (size_t line = begin / CODES; line < end / CODES; line++) {
    for (int c = 0; c < C; c++) {
      const Ints words = columns[c].line(line);
#pragma GCC unroll 8
      for (size_t code = 0; code < CODES; code++) {
        store(panel + ((line * CODES - begin + code) * C + (size_t)c) * LANES, centered<BITS>(words >> ((int)code * BITS)));
      }
    }
  }
}

// Adds the numbers of one group to the sums in y, or writes them if it is the first.
template <int R, int C>
INLINE void panel_group(
    const FloatRow (&rows)[R], size_t count, size_t first, size_t group, const float* panel, const Floats (&scale)[C],
    const Floats (&bias)[C], float* to, size_t stride) {
  Floats part[C][R] = {};
  for (size_t i = 0; i < count; i++) {
    Floats weights[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) weights[c] = load(panel + (i * C + (size_t)c) * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Floats value = broadcast(rows[r].x[first + i]);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) part[c][r] = fma(weights[c], value, part[c][r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      float* at = to + (size_t)r * stride + (size_t)c * LANES;
      const Floats before = group ? load(at) : Floats{};
      store(at, add_group(before, scale[c], part[c][r], bias[c], rows[r].sums[group]));
    }
  }
}

template <int BITS>
void multiply_many(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end, float* panel) {
  constexpr int C = REGISTERS == 32 ? 4 : 2, R = 6;
  const PreparedLayout layout = prepared_layout(w, false);
  const size_t groups = w.in / w.group, at_once = PACKED_PANEL_NUMBERS / w.group;
  for (size_t vector = begin * PARTS; vector < end * PARTS; vector += C) {
    Column<BITS> columns[C];
    for (int c = 0; c < C; c++) {
      columns[c].begin(w, vector + (size_t)c < end * PARTS ? vector + (size_t)c : end * PARTS - 1);
    }
    const size_t first = vector * LANES, left = first < w.out ? w.out - first : 0;
    const size_t bound = (end * PARTS - vector) * LANES;
    const size_t outputs = left < bound ? left : bound;
    for (size_t group = 0; group < groups; group += at_once) {
      const size_t until = group + at_once < groups ? group + at_once : groups;
      unpack(columns, group * w.group, until * w.group, panel);
      for (size_t row = 0; row < x.rows; row += R) {
        FloatRow rows[R];
        float_rows(layout, x, row, rows);
        const size_t count = x.rows - row < R ? x.rows - row : R;
        // Sums of a tile that reaches past the last output or row are kept here.
        float kept[R * C * LANES];
        const bool whole = count == R && outputs >= C * LANES;
        float* to = whole ? y + row * w.out + first : kept;
        const size_t stride = whole ? w.out : C * LANES;
        const size_t some = outputs < C * LANES ? outputs : C * LANES;
        if (!whole && group) {
          for (size_t r = 0; r < count; r++) __builtin_memcpy(kept + r * stride, y + (row + r) * w.out + first, some * sizeof(float));
        }
        for (size_t g = group; g < until; g++) {
          Floats scale[C], bias[C];
          for (int c = 0; c < C; c++) {
            const size_t at = columns[c].first + g * TILE;
            scale[c] = load_numbers(w.format, w.scales, at);
            bias[c] = centered_bias<BITS>(scale[c], load_numbers(w.format, w.biases, at));
          }
          panel_group<R, C>(rows, w.group, g * w.group, g, panel + (g - group) * w.group * C * LANES, scale, bias, to, stride);
        }
        if (!whole) {
          for (size_t r = 0; r < count; r++) __builtin_memcpy(y + (row + r) * w.out + first, kept + r * stride, some * sizeof(float));
        }
      }
    }
  }
}

void many_all(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end, float* panel) {
  if (w.bits == 4) return multiply_many<4>(w, x, y, begin, end, panel);
  multiply_many<8>(w, x, y, begin, end, panel);
}

INLINE void prepare_float(const Weight& w, const PreparedLayout& layout, const float* x, char* to) {
  float* sums = reinterpret_cast<float*>(to + layout.sums);
  __builtin_memcpy(to, x, w.in * sizeof(float));
  for (size_t group = 0; group < w.in / w.group; group++) {
    float parts[16] = {};
    for (size_t i = 0; i < w.group; i += 16) {
      for (size_t j = 0; j < 16; j++) parts[j] += x[group * w.group + i + j];
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t j = 0; j < half; j++) parts[j] += parts[j + half];
    }
    sums[group] = parts[0];
  }
}

} // namespace
} // namespace mlx_llamba::SIMD_LEVEL
