#include "packed.h"

#include "simd.h"
#include "weights.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

#if defined(SIMD_AVX512)
#define VNNI __attribute__((target("avx512vnni")))
#else
#define VNNI
#endif
#define INLINE_VNNI VNNI static inline __attribute__((always_inline))

#if defined(SIMD_AVX512) || defined(__ARM_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Vectors of a line of a tile.
constexpr size_t PARTS = TILE / LANES;

// Bytes between a read and what it asks for ahead: longer than the delay of memory, within a few pages.
constexpr size_t AHEAD = 2048;

// One vector of outputs of a tile.
template <int BITS>
struct Column {
  static constexpr int CODES = 32 / BITS; // per word

  const int32_t* words; // lines are TILE apart
  size_t first; // of its scales and biases

  void begin(const Weight& w, size_t vector) {
    const size_t tile = vector / PARTS, lane = vector % PARTS * LANES;
    words = static_cast<const int32_t*>(w.values) + tile * (w.in / CODES) * TILE + lane;
    first = tile * (w.in / w.group) * TILE + lane;
  }

  INLINE_MEMBER Ints line(size_t j) const {
    const int32_t* from = words + j * TILE;
    __builtin_prefetch(reinterpret_cast<const char*>(from) + AHEAD);
    return load_ints(from, LANES);
  }
};

INLINE Floats load_numbers(Format format, const void* values, size_t index) {
  switch (format) {
    case Format::f32: return load_as<Format::f32>(values, index, LANES);
    case Format::f16: return load_as<Format::f16>(values, index, LANES);
    default: return load_as<Format::bf16>(values, index, LANES);
  }
}

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

// Adds a group's sums to those of the groups before it.
INLINE Floats add_group(Floats sum, Floats scale, Floats group, Floats bias, float x_sum) {
  return fma(bias, broadcast(x_sum), fma(scale, group, sum));
}

template <int BITS>
INLINE Floats centered_bias(Floats scale, Floats bias) {
  return fma(scale, broadcast((float)CENTER<BITS>), bias);
}

// Writes the first `rows` rows of sums to the outputs of a vector.
template <int R>
INLINE void write(const Weight& w, const Floats (&sums)[R], size_t row, size_t rows, size_t vector, float* y) {
  const size_t first = vector * LANES;
  if (first >= w.out) return;
  const size_t left = w.out - first;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    if (row + (size_t)r >= rows) break;
    float* to = y + (row + (size_t)r) * w.out + first;
    if (left >= LANES) store(to, sums[r]);
    else store(to, sums[r], (int)left);
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

// Four int8 activations in every lane.
INLINE Ints broadcast_bytes(const char* from) {
  int32_t four;
  __builtin_memcpy(&four, from, sizeof four);
  return broadcast_int(four);
}

// The sum over a block of products of the codes of a vector of outputs with int8 activations. `codes`
// has them unpacked: byte b of lane o of vector i times byte b of the i-th four activations.
template <int BITS>
struct Block {
  static constexpr int COUNT = (int)INT8_BLOCK / 4; // vectors of four codes per lane
  Ints codes[COUNT];

  INLINE_MEMBER void unpack(const Column<BITS>& column, size_t block) {
    constexpr int LINES = (int)INT8_BLOCK / Column<BITS>::CODES;
#pragma GCC unroll 8
    for (int j = 0; j < LINES; j++) {
      const Ints words = column.line(block * LINES + (size_t)j);
      if constexpr (BITS == 8) {
        codes[j] = words;
      } else {
        codes[2 * j] = words & 0x0f0f0f0f;
        codes[2 * j + 1] = (words >> 4) & 0x0f0f0f0f;
      }
    }
  }
};

#if defined(SIMD_AVX512)
template <int BITS>
INLINE_VNNI Ints dot(const Block<BITS>& block, const char* x) {
  // Two chains: one would be as long as the delay of all its instructions.
  __m512i even = _mm512_setzero_si512(), odd = even;
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i += 2) {
    even = _mm512_dpbusd_epi32(even, (__m512i)block.codes[i], (__m512i)broadcast_bytes(x + 4 * i));
    odd = _mm512_dpbusd_epi32(odd, (__m512i)block.codes[i + 1], (__m512i)broadcast_bytes(x + 4 * i + 4));
  }
  return (Ints)_mm512_add_epi32(even, odd);
}
#elif defined(SIMD_AVX2)
// Products of unsigned and signed bytes, pairs added in 16 bits.
INLINE __m256i pairs(Ints codes, Ints x) {
  return _mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
}

INLINE Ints quads(__m256i pairs, int16_t factor) {
  return (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(factor));
}

template <int BITS>
INLINE Ints dot(const Block<BITS>& block, const char* x) {
  // 16 bits hold eight pairs of products of half a byte: 8 * 2 * 15 * 127 = 30480. Whole bytes
  // would overflow, so their halves are multiplied separately.
  __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i++) {
    const Ints value = broadcast_bytes(x + 4 * i), codes = block.codes[i];
    low = _mm256_add_epi16(low, pairs(BITS == 8 ? codes & 0x0f0f0f0f : codes, value));
    if (BITS == 8) high = _mm256_add_epi16(high, pairs((codes >> 4) & 0x0f0f0f0f, value));
  }
  return BITS == 8 ? quads(low, 1) + quads(high, 16) : quads(low, 1);
}
#else
template <int BITS>
INLINE Ints dot(const Block<BITS>& block, const char* x) {
  Ints sum = {};
#pragma GCC unroll 8
  for (int i = 0; i < Block<BITS>::COUNT; i++) {
#if defined(__ARM_FEATURE_DOTPROD)
    // Codes of 4 bits are signed bytes too.
    if constexpr (BITS == 4) {
      sum = (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)block.codes[i], (int8x16_t)broadcast_bytes(x + 4 * i));
      continue;
    }
#endif
    typedef int16_t Shorts __attribute__((vector_size(16)));
    const Shorts value = (Shorts)broadcast_bytes(x + 4 * i), code = (Shorts)block.codes[i];
    // Bytes at even and at odd positions, widened; 255 * 127 fits into 16 bits.
    const Shorts value0 = (value << 8) >> 8, value1 = value >> 8;
    const Shorts code0 = code & 0xff, code1 = (code >> 8) & 0xff;
#if defined(__x86_64__)
    sum += (Ints)_mm_madd_epi16((__m128i)code0, (__m128i)value0);
    sum += (Ints)_mm_madd_epi16((__m128i)code1, (__m128i)value1);
#elif defined(__ARM_NEON)
    sum = (Ints)vpadalq_s16((int32x4_t)sum, (int16x8_t)(code0 * value0));
    sum = (Ints)vpadalq_s16((int32x4_t)sum, (int16x8_t)(code1 * value1));
#else
    const Shorts product0 = code0 * value0, product1 = code1 * value1;
    for (int lane = 0; lane < 8; lane++) sum[lane / 2] += product0[lane] + product1[lane];
#endif
  }
  return sum;
}
#endif

template <int BITS, int R>
VNNI void multiply_int8(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  const PreparedLayout layout = prepared_layout(w, true);
  const size_t groups = w.in / w.group, blocks = w.group / INT8_BLOCK;
  for (size_t vector = begin * PARTS; vector < end * PARTS; vector++) {
    Column<BITS> column;
    column.begin(w, vector);
    for (size_t row = 0; row < x.rows; row += R) {
      const char* rows[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        rows[r] = x.values + (row + (size_t)r < x.rows ? row + (size_t)r : x.rows - 1) * layout.stride;
      }
      Floats sums[R] = {};
      for (size_t group = 0; group < groups; group++) {
        Floats part[R] = {};
        for (size_t block = group * blocks; block < (group + 1) * blocks; block++) {
          Block<BITS> codes;
          codes.unpack(column, block);
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) {
            const Floats products = __builtin_convertvector(dot(codes, rows[r] + block * INT8_BLOCK), Floats);
            const float scale = reinterpret_cast<const float*>(rows[r] + layout.scales)[block];
            part[r] = fma(products, broadcast(scale), part[r]);
          }
        }
        const size_t at = column.first + group * TILE;
        const Floats scale = load_numbers(w.format, w.scales, at), bias = load_numbers(w.format, w.biases, at);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const float x_sum = reinterpret_cast<const float*>(rows[r] + layout.sums)[group];
          sums[r] = add_group(sums[r], scale, part[r], bias, x_sum);
        }
      }
      write(w, sums, row, x.rows, vector, y);
    }
  }
}

template <int BITS>
void multiply_int8(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  if (x.rows == 1) return multiply_int8<BITS, 1>(w, x, y, begin, end);
  if (x.rows == 2) return multiply_int8<BITS, 2>(w, x, y, begin, end);
  if constexpr (REGISTERS == 32) {
    const auto padded = [&](size_t rows) { return (x.rows + rows - 1) / rows * rows; };
    if (x.rows > 4 && padded(8) <= padded(6)) return multiply_int8<BITS, 8>(w, x, y, begin, end);
    if (x.rows > 4) return multiply_int8<BITS, 6>(w, x, y, begin, end);
  }
  multiply_int8<BITS, 4>(w, x, y, begin, end);
}

void int8_all(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end) {
  if (w.bits == 4) return multiply_int8<4>(w, x, y, begin, end);
  multiply_int8<8>(w, x, y, begin, end);
}

// Rounds a block of numbers to multiples of its scale and returns the scale.
INLINE float round_block(const float* x, int8_t* codes, int32_t& sum) {
  // As integers, the bits of |x| are in the order of |x|, with NaN above infinity.
  int32_t most = 0;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= INT32_MAX;
    most = bits > most ? bits : most;
  }
  float largest;
  __builtin_memcpy(&largest, &most, sizeof largest);
  const bool finite = most < 0x7f800000;
  sum = 0;
  // Below that the inverse of the scale is not a float.
  if (!finite || largest < 1e-36f) {
    __builtin_memset(codes, 0, INT8_BLOCK);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / largest;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const float shifted = x[i] * inverse + 0x1.8p23f;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    codes[i] = (int8_t)(bits - 0x4b400000);
    sum += bits - 0x4b400000;
  }
  return largest / 127.0f;
}

// Codes of 4 bits: of every 8 activations, those at even places come first, as in `Block::unpack`.
template <int BITS>
INLINE void arrange_bytes(const int8_t* codes, char* to) {
  if constexpr (BITS == 8) {
    __builtin_memcpy(to, codes, INT8_BLOCK);
  } else {
    for (size_t i = 0; i < INT8_BLOCK; i += 8) {
      for (size_t b = 0; b < 4; b++) to[i + b] = (char)codes[i + 2 * b];
      for (size_t b = 0; b < 4; b++) to[i + 4 + b] = (char)codes[i + 2 * b + 1];
    }
  }
}

template <int BITS>
INLINE void prepare_int8(const Weight& w, const PreparedLayout& layout, const float* x, char* to) {
  float* scales = reinterpret_cast<float*>(to + layout.scales);
  float* sums = reinterpret_cast<float*>(to + layout.sums);
  for (size_t group = 0; group < w.in / w.group; group++) {
    float total = 0;
    for (size_t column = group * w.group; column < (group + 1) * w.group; column += INT8_BLOCK) {
      int8_t codes[INT8_BLOCK];
      int32_t sum;
      const float scale = round_block(x + column, codes, sum);
      arrange_bytes<BITS>(codes, to + column);
      scales[column / INT8_BLOCK] = scale;
      total += scale * (float)sum;
    }
    sums[group] = total;
  }
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

void prepare(const Weight& w, bool int8, const float* x, char* to, size_t begin, size_t end) {
  const PreparedLayout layout = prepared_layout(w, int8);
  for (size_t row = begin; row < end; row++) {
    const float* from = x + row * w.in;
    char* at = to + row * layout.stride;
    if (!int8) prepare_float(w, layout, from, at);
    else if (w.bits == 4) prepare_int8<4>(w, layout, from, at);
    else prepare_int8<8>(w, layout, from, at);
  }
}

void row(const Weight& w, size_t row, float* to) {
  const size_t codes = 32 / (size_t)w.bits, tile = row / TILE, lane = row % TILE;
  const uint32_t* words = static_cast<const uint32_t*>(w.values) + tile * (w.in / codes) * TILE + lane;
  const size_t first = tile * (w.in / w.group) * TILE + lane;
  for (size_t i = 0; i < w.in; i += w.group) {
    const size_t at = first + i / w.group * TILE;
    const Floats scale = broadcast(load_number(w.format, w.scales, at));
    const Floats bias = broadcast(load_number(w.format, w.biases, at));
    for (size_t j = 0; j < w.group; j += LANES) {
      Ints values;
      for (size_t l = 0; l < LANES; l++) {
        const size_t column = i + j + l;
        values[l] = (int32_t)(words[column / codes * TILE] >> (column % codes * (size_t)w.bits)) & ((1 << w.bits) - 1);
      }
      store(to + i + j, fma(__builtin_convertvector(values, Floats), scale, bias));
    }
  }
}

} // namespace

extern const PackedTable packed_level_table{prepare, multiply_all, int8_all, many_all, row};

} // namespace mlx_llamba::SIMD_LEVEL
