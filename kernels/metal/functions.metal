// Functions of all kernels, placed before each of them.
// Address spaces are template parameters: MLX passes arrays of fewer than eight elements as
// constant, larger ones as device.

#ifndef UNROLL
#define UNROLL _Pragma("clang loop unroll(full)")
#endif

// 1 / (1 + exp(-v)). The exponential never sees a positive number: it cannot overflow.
METAL_FUNC float sigmoid_of(float v) {
  const float e = exp(-fabs(v));
  return (v < 0.0f ? e : 1.0f) / (1.0f + e);
}

METAL_FUNC float silu_of(float v) {
  return v * sigmoid_of(v);
}

// `n` neighbours of an array from `at` on. CUDA has functions of its own, which move all of them at once.
#ifndef LLAMBA_PACKS
template <int n, typename From>
METAL_FUNC void read_pack(From from, long at, thread float (&to)[n]) {
  UNROLL
  for (int i = 0; i < n; ++i) {
    to[i] = float(from[at + i]);
  }
}

template <typename T, int n, typename To>
METAL_FUNC void write_pack(To to, long at, thread const float (&from)[n]) {
  UNROLL
  for (int i = 0; i < n; ++i) {
    to[at + i] = T(from[i]);
  }
}
#endif

// The convolution at one token: `window` holds the k-1 inputs before it, oldest first, and advances
// by one. Values are passed down from the newest: a loop that copies window[i + 1] to window[i]
// would become a memmove, and the window would be in memory instead of registers.
template <int k>
METAL_FUNC float convolve(
    thread float (&window)[k], thread const float (&taps)[k], float input, float shift) {
  float sum = shift;
  UNROLL
  for (int i = 0; i < k - 1; ++i) {
    sum = fma(window[i], taps[i], sum);
  }
  sum = fma(input, taps[k - 1], sum);
  UNROLL
  for (int i = k - 2; i >= 0; --i) {
    const float older = window[i];
    window[i] = input;
    input = older;
  }
  return sum;
}
