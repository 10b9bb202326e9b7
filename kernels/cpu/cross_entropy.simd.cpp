#include "cross_entropy.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

// Calls `f(at, lanes)` for every vector of `count` elements; the last may have fewer lanes.
template <class F>
INLINE void by_vector(size_t count, const F& f) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) f(c, LANES);
  if (c < count) f(c, (int)(count - c));
}

// Missing lanes are `filler`.
INLINE Floats get(const float* from, int lanes, Floats filler) {
  if (lanes == LANES) return load(from);
  Ints number;
  for (int lane = 0; lane < LANES; lane++) number[lane] = lane;
  return select(number < broadcast_int(lanes), load(from, lanes), filler);
}

INLINE void put(float* to, Floats value, int lanes) {
  if (lanes == LANES) store(to, value);
  else store(to, value, lanes);
}

INLINE float largest(const float* values, size_t v) {
  Floats most = broadcast(values[0]);
  by_vector(v, [&](size_t c, int lanes) {
    const Floats x = get(values + c, lanes, most);
    most = select(x > most, x, most);
  });
  float result = most[0];
  for (int lane = 1; lane < LANES; lane++) result = most[lane] > result ? most[lane] : result;
  return result;
}

// A sum of many numbers: a float has too few digits for a vocabulary.
struct Total {
  double value = 0;
  Floats part = {};
  int terms = 0;

  __attribute__((always_inline)) void add(Floats x) {
    part += x;
    if (++terms == 64) flush();
  }

  __attribute__((always_inline)) void flush() {
    value += sum(part);
    part = Floats{};
    terms = 0;
  }
};

// Writes e^((x - most) / T) and returns its sum.
INLINE double exponentials(const float* x, float most, float scale, float* out, size_t v) {
  Total total;
  const Floats shift = broadcast(most), by = broadcast(scale), never = broadcast(-1e30f);
  by_vector(v, [&](size_t c, int lanes) {
    const Floats e = exp((get(x + c, lanes, never) - shift) * by);
    put(out + c, e, lanes);
    total.add(e);
  });
  total.flush();
  return total.value;
}

void compare(const float* s, const float* t, Comparison how, float* gradient, float* sums, size_t v) {
  const float most = largest(s, v), scale = 1.0f / how.temperature;
  const Floats none = {};
  if (!t) {
    const double total = exponentials(s, most, 1.0f, gradient, v);
    const Floats q = broadcast((float)(how.next_weight / total));
    by_vector(v, [&](size_t c, int lanes) { put(gradient + c, get(gradient + c, lanes, none) * q, lanes); });
    sums[0] = sums[1] = 0;
    sums[2] = (float)(most + __builtin_log(total));
    return;
  }
  // `gradient` holds the distribution at the temperature for now.
  const double s_total = exponentials(s, most, scale, gradient, v);
  const float t_most = largest(t, v);
  const Floats s_shift = broadcast(most), t_shift = broadcast(t_most), by = broadcast(scale);
  const Floats never = broadcast(-1e30f);
  const bool same = how.temperature == 1.0f;
  // At temperature 1 the next token is compared with the same distribution.
  double plain_total = s_total;
  if (!same) {
    Total total;
    by_vector(v, [&](size_t c, int lanes) { total.add(exp(get(s + c, lanes, never) - s_shift)); });
    total.flush();
    plain_total = total.value;
  }
  Total t_total;
  by_vector(v, [&](size_t c, int lanes) { t_total.add(exp((get(t + c, lanes, never) - t_shift) * by)); });
  t_total.flush();
  const Floats p_scale = broadcast((float)(1 / t_total.value));
  const Floats q_weight = broadcast((float)((how.teacher_weight + (same ? how.next_weight : 0)) / s_total));
  const Floats p_weight = broadcast(how.teacher_weight);
  const bool plain = !same && how.next_weight != 0;
  const Floats plain_weight = broadcast(plain ? (float)(how.next_weight / plain_total) : 0.0f);
  Total by_s, by_t;
  by_vector(v, [&](size_t c, int lanes) {
    const Floats x = (get(s + c, lanes, s_shift) - s_shift) * by, y = (get(t + c, lanes, t_shift) - t_shift) * by;
    const Floats p = exp(y) * p_scale;
    Floats g = fma(get(gradient + c, lanes, none), q_weight, -p * p_weight);
    if (plain) g = fma(exp(get(s + c, lanes, never) - s_shift), plain_weight, g);
    put(gradient + c, g, lanes);
    // Missing lanes have x = y = 0.
    by_s.add(p * x);
    by_t.add(p * y);
  });
  by_s.flush();
  by_t.flush();
  const double s_log = __builtin_log(s_total), t_log = __builtin_log(t_total.value);
  sums[0] = (float)(s_log - by_s.value);
  sums[1] = (float)((s_log - by_s.value) - (t_log - by_t.value));
  sums[2] = (float)(most + __builtin_log(plain_total));
}

} // namespace

extern const CrossEntropyTable cross_entropy_table{compare};

} // namespace mlx_llamba::SIMD_LEVEL
