// Metal's scalar types: half rounds after every operation (-fexcess-precision=16); bfloat is a class,
// since g++ 12 has no arithmetic for it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define METAL_FUNC inline __attribute__((__always_inline__))
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define M_PI_F 3.14159265358979323846f
#define M_E_F 2.71828182845904523536f
#define M_LN2_F 0.69314718055994530942f
#define M_LOG2E_F 1.44269504088896340736f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
METAL_FUNC constexpr half operator""h(long double x) { return half(x); }

/// The upper half of a float. Conversion to float is implicit and exact; from float it is
/// explicit and rounds to nearest even.
struct bfloat {
    uint16_t bits;

    bfloat() = default;
    METAL_FUNC constexpr explicit bfloat(float x) : bits(round(__builtin_bit_cast(uint32_t, x))) {}
    METAL_FUNC constexpr operator float() const { return __builtin_bit_cast(float, uint32_t(bits) << 16); }

    METAL_FUNC static constexpr uint16_t round(uint32_t x) {
        if ((x & 0x7fffffffu) > 0x7f800000u) return uint16_t(x >> 16) | 0x40u;  // NaN stays NaN
        return uint16_t((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
    }
    template <typename U> METAL_FUNC bfloat& operator+=(U x) { return *this = bfloat(float(*this) + float(x)); }
    template <typename U> METAL_FUNC bfloat& operator-=(U x) { return *this = bfloat(float(*this) - float(x)); }
    template <typename U> METAL_FUNC bfloat& operator*=(U x) { return *this = bfloat(float(*this) * float(x)); }
    template <typename U> METAL_FUNC bfloat& operator/=(U x) { return *this = bfloat(float(*this) / float(x)); }
};
METAL_FUNC constexpr bfloat operator+(bfloat a, bfloat b) { return bfloat(float(a) + float(b)); }
METAL_FUNC constexpr bfloat operator-(bfloat a, bfloat b) { return bfloat(float(a) - float(b)); }
METAL_FUNC constexpr bfloat operator*(bfloat a, bfloat b) { return bfloat(float(a) * float(b)); }
METAL_FUNC constexpr bfloat operator/(bfloat a, bfloat b) { return bfloat(float(a) / float(b)); }
METAL_FUNC constexpr bfloat operator-(bfloat a) { return bfloat(-float(a)); }

// MLX's names of them in signatures.
typedef half float16_t;
typedef bfloat bfloat16_t;

namespace metal {

template <bool B, typename T, typename U> struct conditional { typedef T type; };
template <typename T, typename U> struct conditional<false, T, U> { typedef U type; };
template <bool B, typename T, typename U> using conditional_t = typename conditional<B, T, U>::type;
template <typename T, typename U> struct is_same { static constexpr bool value = false; };
template <typename T> struct is_same<T, T> { static constexpr bool value = true; };
template <typename T, typename U> constexpr bool is_same_v = is_same<T, U>::value;
template <typename T> struct type_identity { typedef T type; };
template <typename T> using type_identity_t = typename type_identity<T>::type;
template <bool B, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> { typedef T type; };
template <bool B, typename T = void> using enable_if_t = typename enable_if<B, T>::type;

template <typename T> struct is_floating_point { static constexpr bool value = false; };
template <> struct is_floating_point<float> { static constexpr bool value = true; };
template <> struct is_floating_point<half> { static constexpr bool value = true; };
template <> struct is_floating_point<bfloat> { static constexpr bool value = true; };
template <typename T> constexpr bool is_floating_point_v = is_floating_point<T>::value;

template <typename T> struct numeric_limits {
    static constexpr bool is_signed = T(-1) < T(0);
    METAL_FUNC static constexpr T min() {
        return is_signed ? T(T(1) << (sizeof(T) * 8 - 1)) : T(0);
    }
    METAL_FUNC static constexpr T max() { return T(~min()); }
    METAL_FUNC static constexpr T lowest() { return min(); }
};
template <> struct numeric_limits<float> {
    METAL_FUNC static constexpr float min() { return FLT_MIN; }
    METAL_FUNC static constexpr float max() { return FLT_MAX; }
    METAL_FUNC static constexpr float lowest() { return -FLT_MAX; }
    METAL_FUNC static constexpr float infinity() { return INFINITY; }
    METAL_FUNC static constexpr float quiet_NaN() { return NAN; }
    METAL_FUNC static constexpr float epsilon() { return FLT_EPSILON; }
};
template <> struct numeric_limits<half> {
    METAL_FUNC static constexpr half min() { return half(6.103515625e-05f); }
    METAL_FUNC static constexpr half max() { return half(65504.0f); }
    METAL_FUNC static constexpr half lowest() { return half(-65504.0f); }
    METAL_FUNC static constexpr half infinity() { return half(INFINITY); }
    METAL_FUNC static constexpr half quiet_NaN() { return half(NAN); }
};
template <> struct numeric_limits<bfloat> {
    METAL_FUNC static constexpr bfloat min() { return bfloat(FLT_MIN); }
    METAL_FUNC static constexpr bfloat max() { return bfloat(3.38953139e38f); }
    METAL_FUNC static constexpr bfloat lowest() { return bfloat(-3.38953139e38f); }
    METAL_FUNC static constexpr bfloat infinity() { return bfloat(INFINITY); }
    METAL_FUNC static constexpr bfloat quiet_NaN() { return bfloat(NAN); }
};

template <typename U, typename T> METAL_FUNC U as_type(T x) {
    static_assert(sizeof(U) == sizeof(T), "as_type keeps the size");
    return __builtin_bit_cast(U, x);
}

}  // namespace metal
