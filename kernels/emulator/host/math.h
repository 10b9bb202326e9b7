// The metal:: math functions. precise:: rounds (nearly) correctly to float; fast:: is off by two units
// in the last place in a direction that depends on the value, to expose kernels that rely on more. The
// unqualified names are precise, as in MLX's default math mode.
#pragma once
#include "vec.h"

namespace metal {

/// Moves x by two units in the last place, away from zero or towards it.
METAL_FUNC float emu_inexact(float x) {
    uint32_t bits = __builtin_bit_cast(uint32_t, x);
    uint32_t exponent = (bits >> 23) & 0xffu;
    if (exponent <= 1 || exponent >= 0xfe) return x;
    bool up = ((bits * 2654435761u) >> 16) & 1u;
    return __builtin_bit_cast(float, up ? bits + 2u : bits - 2u);
}
METAL_FUNC double emu_sign(double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : 0.0; }

// name, and its value as a double of the double x
#define EMU_INEXACT(M)                                                                             \
    M(exp, __builtin_exp(x)) M(exp2, __builtin_exp2(x)) M(exp10, __builtin_pow(10.0, x))            \
    M(log, __builtin_log(x)) M(log2, __builtin_log2(x)) M(log10, __builtin_log10(x))                \
    M(sin, __builtin_sin(x)) M(cos, __builtin_cos(x)) M(tan, __builtin_tan(x))                      \
    M(asin, __builtin_asin(x)) M(acos, __builtin_acos(x)) M(atan, __builtin_atan(x))                \
    M(sinh, __builtin_sinh(x)) M(cosh, __builtin_cosh(x)) M(tanh, __builtin_tanh(x))                \
    M(asinh, __builtin_asinh(x)) M(acosh, __builtin_acosh(x)) M(atanh, __builtin_atanh(x))          \
    M(sqrt, __builtin_sqrt(x)) M(rsqrt, 1.0 / __builtin_sqrt(x))
#define EMU_EXACT(M)                                                                               \
    M(fabs, __builtin_fabs(x)) M(floor, __builtin_floor(x)) M(ceil, __builtin_ceil(x))              \
    M(trunc, __builtin_trunc(x)) M(rint, __builtin_rint(x)) M(round, __builtin_round(x))            \
    M(fract, x - __builtin_floor(x)) M(sign, emu_sign(x))                                          \
    M(saturate, x > 0 ? (x < 1 ? x : 1.0) : 0.0)

#define EMU_UNARY(name, value)                                                                     \
    METAL_FUNC float name(float a) { double x = a; return float(value); }                          \
    METAL_FUNC half name(half a) { double x = float(a); return half(float(value)); }               \
    METAL_FUNC bfloat name(bfloat a) { double x = float(a); return bfloat(float(value)); }         \
    template <typename T, int N> METAL_FUNC vec<T, N> name(vec<T, N> a) {                          \
        return map<T>(a, [](T x) { return name(x); });                                             \
    }
#define EMU_FAST(name, value)                                                                      \
    METAL_FUNC float name(float a) { double x = a; return emu_inexact(float(value)); }             \
    template <int N> METAL_FUNC vec<float, N> name(vec<float, N> a) {                              \
        return map<float>(a, [](float x) { return name(x); });                                     \
    }
EMU_INEXACT(EMU_UNARY)
EMU_EXACT(EMU_UNARY)
namespace precise {
EMU_INEXACT(EMU_UNARY)
EMU_EXACT(EMU_UNARY)
METAL_FUNC float divide(float a, float b) { return a / b; }
METAL_FUNC float pow(float a, float b) { return float(__builtin_pow(a, b)); }
}  // namespace precise
namespace fast {
EMU_INEXACT(EMU_FAST)
EMU_EXACT(EMU_UNARY)
METAL_FUNC float divide(float a, float b) { return emu_inexact(a / b); }
METAL_FUNC float pow(float a, float b) { return emu_inexact(float(__builtin_pow(a, b))); }
}  // namespace fast
#undef EMU_UNARY
#undef EMU_FAST
#undef EMU_INEXACT
#undef EMU_EXACT

METAL_FUNC float divide(float a, float b) { return a / b; }
METAL_FUNC float pow(float a, float b) { return float(__builtin_pow(a, b)); }
METAL_FUNC float powr(float a, float b) { return float(__builtin_pow(a, b)); }
METAL_FUNC float fmod(float a, float b) { return float(__builtin_fmod(a, b)); }
METAL_FUNC float atan2(float a, float b) { return float(__builtin_atan2(a, b)); }
METAL_FUNC float ldexp(float a, int k) { return __builtin_ldexpf(a, k); }
METAL_FUNC float copysign(float a, float b) { return __builtin_copysignf(a, b); }
METAL_FUNC float fmax(float a, float b) { return __builtin_fmaxf(a, b); }
METAL_FUNC float fmin(float a, float b) { return __builtin_fminf(a, b); }
METAL_FUNC half fmax(half a, half b) { return half(__builtin_fmaxf(float(a), float(b))); }
METAL_FUNC half fmin(half a, half b) { return half(__builtin_fminf(float(a), float(b))); }

METAL_FUNC bool isnan(float x) { return x != x; }
METAL_FUNC bool isinf(float x) { return __builtin_isinf(x); }
METAL_FUNC bool isfinite(float x) { return __builtin_isfinite(x); }

METAL_FUNC float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// The product of two halfs is exact in float, and so is that of two bfloats; the sum in double is exact
// wherever it matters for one rounding to the narrow type.
METAL_FUNC half fma(half a, half b, half c) { return half(double(float(a)) * double(float(b)) + double(float(c))); }
METAL_FUNC bfloat fma(bfloat a, bfloat b, bfloat c) { return bfloat(float(a) * float(b) + float(c)); }
template <typename T, int N> METAL_FUNC vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.e[i] = fma(a.e[i], b.e[i], c.e[i]);
    return r;
}

// Both arguments have one type: in Metal a call with two types is ambiguous.
template <typename T> METAL_FUNC constexpr T min(T a, T b) { return b < a ? b : a; }
template <typename T> METAL_FUNC constexpr T max(T a, T b) { return a < b ? b : a; }
template <typename T> METAL_FUNC constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
template <typename T> METAL_FUNC constexpr T abs(T x) { return x < T(0) ? T(-x) : x; }
template <typename T> METAL_FUNC constexpr T select(T a, T b, bool c) { return c ? b : a; }
METAL_FUNC float abs(float x) { return __builtin_fabsf(x); }
METAL_FUNC float mix(float a, float b, float t) { return a + (b - a) * t; }
METAL_FUNC float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }

template <typename T, int N> METAL_FUNC vec<T, N> min(vec<T, N> a, vec<T, N> b) {
    return map<T>(a, b, [](T x, T y) { return min(x, y); });
}
template <typename T, int N> METAL_FUNC vec<T, N> max(vec<T, N> a, vec<T, N> b) {
    return map<T>(a, b, [](T x, T y) { return max(x, y); });
}
template <typename T, int N> METAL_FUNC vec<T, N> min(vec<T, N> a, type_identity_t<T> b) { return min(a, vec<T, N>(b)); }
template <typename T, int N> METAL_FUNC vec<T, N> max(vec<T, N> a, type_identity_t<T> b) { return max(a, vec<T, N>(b)); }
template <typename T, int N> METAL_FUNC vec<T, N> clamp(vec<T, N> x, vec<T, N> lo, vec<T, N> hi) { return min(max(x, lo), hi); }
template <typename T, int N> METAL_FUNC vec<T, N> clamp(vec<T, N> x, type_identity_t<T> lo, type_identity_t<T> hi) {
    return min(max(x, vec<T, N>(lo)), vec<T, N>(hi));
}
template <typename T, int N> METAL_FUNC vec<T, N> abs(vec<T, N> a) {
    return map<T>(a, [](T x) { return abs(x); });
}
template <typename T, int N> METAL_FUNC vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.e[i] = c.e[i] ? b.e[i] : a.e[i];
    return r;
}

METAL_FUNC uint popcount(uint x) { return uint(__builtin_popcount(x)); }
METAL_FUNC uint clz(uint x) { return x ? uint(__builtin_clz(x)) : 32u; }
METAL_FUNC uint ctz(uint x) { return x ? uint(__builtin_ctz(x)) : 32u; }
METAL_FUNC uint extract_bits(uint x, uint offset, uint bits) {
    return bits == 32u ? x : (x >> offset) & ((1u << bits) - 1u);
}

}  // namespace metal
