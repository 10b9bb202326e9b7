// Functions that every kernel may use; placed before each of them.
// Address spaces are template parameters: MLX passes arrays of fewer than eight elements as
// constant, larger ones as device.

#define UNROLL _Pragma("clang loop unroll(full)")

// 1 / (1 + exp(-v)). The exponential never sees a positive number: it cannot overflow.
inline float sigmoid_of(float v) {
  const float e = exp(-fabs(v));
  return (v < 0.0f ? e : 1.0f) / (1.0f + e);
}

inline float silu_of(float v) {
  return v * sigmoid_of(v);
}
