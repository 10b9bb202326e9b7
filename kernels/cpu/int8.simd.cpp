#include "int8.h"

#include "weights.h"

#include "dot.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

#if !defined(SIMD_AVX512)
#define VNNI
#endif
#define INLINE_VNNI VNNI static inline __attribute__((always_inline))

// Vectors for the chains of sums: lane l of vector c is chain c * LANES + l.
constexpr int VECTORS = (int)INT8_CHAINS / LANES;

// A piece of a row of codes.
template <int BITS>
struct Piece {
  static constexpr int CODES = 32 / BITS; // per word

  const int32_t* words;
  size_t ahead; // bytes to the data of the next tile
  size_t groups;
  // Of the groups, with zeros as far as the last step reads.
  float scales[INT8_PIECE / 32 + INT8_CHAINS], biases[INT8_PIECE / 32 + LANES];

  void begin(const Weight& w, size_t row, size_t column, size_t numbers, size_t outputs) {
    words = static_cast<const int32_t*>(w.values) + (row * w.in + column) / CODES;
    ahead = outputs * w.in * BITS / 8;
    const int group_bits = __builtin_ctzll(w.group); // groups are powers of two
    groups = numbers >> group_bits;
    const size_t first = (row * w.in + column) >> group_bits;
    widen(w.format, w.scales, first, groups, scales);
    widen(w.format, w.biases, first, groups, biases);
    const size_t whole = (groups + LANES - 1) / LANES * LANES;
    if (whole < INT8_PIECE / 32) __builtin_memset(scales + whole, 0, INT8_CHAINS * sizeof(float));
  }

  // Returns the codes of the chains of vector c in a step that has `left` words.
  INLINE_MEMBER Bytes<BITS> codes(size_t step, int c, int left) const {
    Ints four[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; e++) {
      const int at = e * (int)INT8_CHAINS + c * LANES;
      const int32_t* from = words + step * INT8_WORDS + at;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead);
      if (left - at >= LANES) {
        four[e] = load_ints(from, LANES);
      } else {
        four[e] = left > at ? load_ints(from, left - at) : Ints{};
      }
    }
    transpose(four);
    return unpack<BITS>(four);
  }
};

// The index of each chain's group among those of a step.
struct Places {
  Ints chains[VECTORS];
  int group_bits;

  template <int BITS>
  INLINE_MEMBER void set(const Weight& w) {
    group_bits = __builtin_ctzll(w.group);
    for (int c = 0; c < VECTORS; c++) {
      for (int lane = 0; lane < LANES; lane++) {
        const int chain = c * LANES + lane;
        chains[c][lane] = (chain / 4 * 4 + chain % 4 * 16) * (32 / BITS) >> group_bits;
      }
    }
  }

  // Gives each chain the number of its group.
  INLINE_MEMBER Floats spread(const float* from, int c) const {
#if defined(SIMD_AVX512)
    return _mm512_permutexvar_ps((__m512i)chains[c], load(from));
#elif defined(SIMD_AVX2)
    const __m256i places = (__m256i)chains[c];
    const __m256 low = _mm256_permutevar8x32_ps(load(from), places);
    const __m256 high = _mm256_permutevar8x32_ps(load(from + LANES), places);
    return _mm256_blendv_ps(low, high, (__m256)_mm256_cmpgt_epi32(places, _mm256_set1_epi32(LANES - 1)));
#else
    Floats value;
    for (int lane = 0; lane < LANES; lane++) value[lane] = from[chains[c][lane]];
    return value;
#endif
  }
};

struct Row {
  const char* codes;
  const float* scales;
  const float* sums; // of rounded activations, per group of the weight
};

template <int BITS, int R, int O>
INLINE_VNNI void add_step(
    const Piece<BITS> (&w)[O], const Row (&x)[R], const Places& places, size_t step, int left,
    Floats (&acc)[VECTORS][R][O]) {
  const size_t groups = step * INT8_WORDS * Piece<BITS>::CODES >> places.group_bits;
#pragma GCC unroll 4
  for (int c = 0; c < VECTORS; c++) {
    Bytes<BITS> codes[O];
    Floats scale[O];
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) {
      codes[o] = w[o].codes(step, c, left);
      scale[o] = places.spread(w[o].scales + groups, c);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Floats own = load(x[r].scales + step * INT8_CHAINS + c * LANES);
      const char* from = x[r].codes + step * Bytes<BITS>::PARTS * PART + c * LANES * 4;
#pragma GCC unroll 4
      for (int o = 0; o < O; o++) {
        const Ints sum = dot<BITS>(codes[o], from);
        acc[c][r][o] = fma(__builtin_convertvector(sum, Floats), scale[o] * own, acc[c][r][o]);
      }
    }
  }
}

// Adds the terms of the biases, 16 groups at a time.
template <int BITS, int R, int O>
INLINE void add_biases(const Piece<BITS> (&w)[O], const Row (&x)[R], Floats (&acc)[VECTORS][R][O]) {
  for (int group = 0; group < (int)w[0].groups; group += (int)INT8_CHAINS) {
#pragma GCC unroll 4
    for (int c = 0; c < VECTORS; c++) {
      const int at = group + c * LANES, left = (int)w[0].groups - at;
      if (left <= 0) continue;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Floats own = load(x[r].sums + at, left < LANES ? left : LANES);
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) acc[c][r][o] = fma(load(w[o].biases + at), own, acc[c][r][o]);
      }
    }
  }
}

// Adds the chains of each result: those of vectors first, then lanes in the order of `sum`, four at a
// time where there are four.
template <int R, int O>
INLINE void add_chains(const Floats (&acc)[VECTORS][R][O], float (&values)[R][O]) {
  Floats all[R * O];
#pragma GCC unroll 8
  for (int i = 0; i < R * O; i++) {
    const int r = i / O, o = i % O;
    if constexpr (VECTORS == 4) {
      all[i] = (acc[0][r][o] + acc[2 % VECTORS][r][o]) + (acc[1 % VECTORS][r][o] + acc[3 % VECTORS][r][o]);
    } else {
      all[i] = VECTORS == 2 ? acc[0][r][o] + acc[1 % VECTORS][r][o] : acc[0][r][o];
    }
  }
  float* to = &values[0][0];
  int i = 0;
#pragma GCC unroll 8
  for (; i + 4 <= R * O; i += 4) {
    const Four four = sums(all[i], all[i + 1], all[i + 2], all[i + 3]);
    __builtin_memcpy(to + i, &four, sizeof four);
  }
#pragma GCC unroll 4
  for (; i < R * O; i++) to[i] = sum(all[i]);
}

// Adds the sums of a piece to y, or writes them if it is the first. Only the first `rows` of R rows and
// `outputs` of O outputs exist; the others repeat the last.
template <int BITS, int R, int O>
INLINE_VNNI void tile(
    const Piece<BITS> (&w)[O], const Row (&x)[R], const Places& places, size_t words, bool first, float* y,
    size_t y_stride, int rows, int outputs) {
  Floats acc[VECTORS][R][O] = {};
  const size_t steps = words / INT8_WORDS;
  for (size_t step = 0; step < steps; step++) add_step(w, x, places, step, (int)INT8_WORDS, acc);
  if (words % INT8_WORDS) add_step(w, x, places, steps, (int)(words % INT8_WORDS), acc);
  add_biases(w, x, acc);
  float values[R][O];
  add_chains(acc, values);
  for (int r = 0; r < rows; r++) {
    for (int o = 0; o < outputs; o++) {
      float& to = y[(size_t)r * y_stride + (size_t)o];
      to = first ? values[r][o] : to + values[r][o];
    }
  }
}

// Outputs of a tile with this many rows: the codes of one output take 8 registers, which several rows
// share.
constexpr int outputs_at_once(int rows) {
  return rows == 1 ? 4 : LANES == 16 ? 2 : 1;
}

template <int BITS, int R>
VNNI void multiply(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  constexpr int O = outputs_at_once(R);
  const Int8Layout layout = int8_layout(w);
  Places places;
  places.set<BITS>(w);
  Piece<BITS> pieces[O];
  for (size_t o = begin; o < end; o += O) {
    const int outputs = end - o < O ? (int)(end - o) : O;
    for (size_t column = 0; column < w.in; column += INT8_PIECE) {
      const size_t numbers = w.in - column < INT8_PIECE ? w.in - column : INT8_PIECE;
      for (int i = 0; i < O; i++) {
        pieces[i].begin(w, o + (size_t)(i < outputs ? i : outputs - 1), column, numbers, O);
      }
      for (size_t row = 0; row < x.rows; row += R) {
        const int rows = x.rows - row < R ? (int)(x.rows - row) : R;
        Row values[R];
        for (int r = 0; r < R; r++) {
          const char* from = x.values + (row + (size_t)(r < rows ? r : rows - 1)) * layout.stride;
          const size_t chains = column / (INT8_WORDS * Piece<BITS>::CODES) * INT8_CHAINS;
          values[r].codes = from + column;
          values[r].scales = reinterpret_cast<const float*>(from + layout.scales) + chains;
          values[r].sums = reinterpret_cast<const float*>(from + layout.sums) + (column >> places.group_bits);
        }
        float* to = y + row * w.out + o;
        tile(pieces, values, places, numbers / Piece<BITS>::CODES, column == 0, to, w.out, rows, outputs);
      }
    }
  }
}

template <int BITS>
void multiply(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  if (x.rows == 1) return multiply<BITS, 1>(w, x, y, begin, end);
  if (x.rows == 2) return multiply<BITS, 2>(w, x, y, begin, end);
  // Uses the tile height that wastes less. Eight rows and one output would take a load per product.
  if ((x.rows + 2) / 3 * 3 < (x.rows + 3) / 4 * 4) return multiply<BITS, 3>(w, x, y, begin, end);
  multiply<BITS, 4>(w, x, y, begin, end);
}

void multiply_all(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  if (w.bits == 4) return multiply<4>(w, x, y, begin, end);
  multiply<8>(w, x, y, begin, end);
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

template <int BITS>
void round(const Weight& w, const float* x, char* to, size_t begin, size_t end) {
  constexpr size_t CODES = 32 / BITS, EACH = 8 / BITS, NUMBERS = INT8_WORDS * CODES;
  const Int8Layout layout = int8_layout(w);
  for (size_t row = begin; row < end; row++) {
    char* bytes = to + row * layout.stride;
    float* scales = reinterpret_cast<float*>(bytes + layout.scales);
    float* sums = reinterpret_cast<float*>(bytes + layout.sums);
    __builtin_memset(sums, 0, w.in / w.group * sizeof(float));
    for (size_t column = 0; column < layout.steps * NUMBERS; column += INT8_BLOCK) {
      int8_t codes[INT8_BLOCK] = {};
      int32_t sum = 0;
      float scale = 0;
      // Rows are whole groups, and groups whole blocks; zeros follow.
      if (column < w.in) {
        scale = round_block(x + row * w.in + column, codes, sum);
        sums[column / w.group] += scale * (float)sum;
      }
      const size_t step = column / NUMBERS;
      for (size_t word = 0; word < INT8_BLOCK / CODES; word++) {
        const size_t at = column % NUMBERS / CODES + word;
        const size_t e = at / 16, chain = at % 16 / 4 * 4 + e, m = at % 4;
        char* part = bytes + step * NUMBERS + m * EACH * PART + chain * 4;
        for (size_t v = 0; v < EACH; v++) {
          char four[4];
          for (size_t b = 0; b < 4; b++) four[b] = (char)codes[word * CODES + b * EACH + v];
          __builtin_memcpy(part + v * PART, four, sizeof four);
        }
        scales[step * INT8_CHAINS + chain] = scale;
      }
    }
  }
}

void round_all(const Weight& w, const float* x, char* to, size_t begin, size_t end) {
  if (w.bits == 4) return round<4>(w, x, to, begin, end);
  round<8>(w, x, to, begin, end);
}

} // namespace

extern const Int8Table int8_level_table{round_all, multiply_all};

} // namespace mlx_llamba::SIMD_LEVEL
