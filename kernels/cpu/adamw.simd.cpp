#include "adamw.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

INLINE Floats root_of(Floats x) {
#if defined(SIMD_AVX512)
  return _mm512_sqrt_ps(x);
#elif defined(SIMD_AVX2)
  return _mm256_sqrt_ps(x);
#else
  for (int lane = 0; lane < LANES; lane++) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

void step(
    const AdamW& how, float scale_of_gradient, const float* p, const float* g, const float* m, const float* v, float* new_p, float* new_m,
    float* new_v, size_t begin, size_t end) {
  const Floats scale = broadcast(scale_of_gradient), beta1 = broadcast(how.beta1), beta2 = broadcast(how.beta2);
  const Floats rest1 = broadcast(1.0f - how.beta1), rest2 = broadcast(1.0f - how.beta2);
  const Floats root = broadcast(how.root), epsilon = broadcast(how.epsilon);
  const Floats rate = broadcast(how.rate), kept = broadcast(how.kept);
  const auto vector = [&](size_t i, auto get, auto put) {
    const Floats gradient = get(g + i) * scale;
    const Floats mean = fma(get(m + i), beta1, gradient * rest1);
    const Floats square = fma(get(v + i), beta2, gradient * gradient * rest2);
    put(new_m + i, mean);
    put(new_v + i, square);
    put(new_p + i, get(p + i) * kept - rate * mean / fma(root_of(square), root, epsilon));
  };
  size_t i = begin;
  for (; i + LANES <= end; i += LANES) {
    vector(i, [](const float* from) { return load(from); }, [](float* to, Floats value) { store(to, value); });
  }
  if (const int left = (int)(end - i)) {
    vector(
        i, [left](const float* from) { return load(from, left); },
        [left](float* to, Floats value) { store(to, value, left); });
  }
}

} // namespace

extern const AdamWTable adamw_table{step};

} // namespace mlx_llamba::SIMD_LEVEL
