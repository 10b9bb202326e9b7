// Vectors of 2, 3 and 4 elements with the usual operators and the common swizzles.
#pragma once
#include "scalar.h"

namespace metal {

template <typename T, int N> struct vec;

/// Elements I... of a vector of N, in that vector's union.
template <typename T, int N, int... I> struct Swizzle {
    T e[N];
    METAL_FUNC operator vec<T, int(sizeof...(I))>() const;
    METAL_FUNC Swizzle& operator=(vec<T, int(sizeof...(I))> x);
};

template <typename T> struct alignas(sizeof(T) * 2) vec<T, 2> {
    union {
        T e[2];
        struct { T x, y; };
        struct { T r, g; };
        Swizzle<T, 2, 0, 1> xy;
        Swizzle<T, 2, 1, 0> yx;
    };
    vec() = default;
    METAL_FUNC constexpr vec(T s) : e{s, s} {}
    METAL_FUNC constexpr vec(T x, T y) : e{x, y} {}
    template <typename U> METAL_FUNC explicit vec(vec<U, 2> v) : e{T(v.e[0]), T(v.e[1])} {}
    template <typename U, int M, int... I>
    METAL_FUNC explicit vec(Swizzle<U, M, I...> s) : e{T(s.e[I])...} {}
    METAL_FUNC T& operator[](int i) { return e[i]; }
    METAL_FUNC const T& operator[](int i) const { return e[i]; }
};

template <typename T> struct alignas(sizeof(T) * 4) vec<T, 3> {
    union {
        T e[3];
        struct { T x, y, z; };
        struct { T r, g, b; };
        Swizzle<T, 3, 0, 1> xy;
        Swizzle<T, 3, 1, 2> yz;
        Swizzle<T, 3, 0, 2> xz;
    };
    vec() = default;
    METAL_FUNC constexpr vec(T s) : e{s, s, s} {}
    METAL_FUNC constexpr vec(T x, T y, T z) : e{x, y, z} {}
    METAL_FUNC vec(vec<T, 2> a, T z) : e{a.e[0], a.e[1], z} {}
    template <typename U> METAL_FUNC explicit vec(vec<U, 3> v) : e{T(v.e[0]), T(v.e[1]), T(v.e[2])} {}
    template <typename U, int M, int... I>
    METAL_FUNC explicit vec(Swizzle<U, M, I...> s) : e{T(s.e[I])...} {}
    METAL_FUNC T& operator[](int i) { return e[i]; }
    METAL_FUNC const T& operator[](int i) const { return e[i]; }
};

template <typename T> struct alignas(sizeof(T) * 4) vec<T, 4> {
    union {
        T e[4];
        struct { T x, y, z, w; };
        struct { T r, g, b, a; };
        Swizzle<T, 4, 0, 1> xy;
        Swizzle<T, 4, 2, 3> zw;
        Swizzle<T, 4, 0, 2> xz;
        Swizzle<T, 4, 1, 3> yw;
        Swizzle<T, 4, 0, 1, 2> xyz;
        Swizzle<T, 4, 1, 2, 3> yzw;
    };
    vec() = default;
    METAL_FUNC constexpr vec(T s) : e{s, s, s, s} {}
    METAL_FUNC constexpr vec(T x, T y, T z, T w) : e{x, y, z, w} {}
    METAL_FUNC vec(vec<T, 2> a, vec<T, 2> b) : e{a.e[0], a.e[1], b.e[0], b.e[1]} {}
    METAL_FUNC vec(vec<T, 3> a, T w) : e{a.e[0], a.e[1], a.e[2], w} {}
    template <typename U>
    METAL_FUNC explicit vec(vec<U, 4> v) : e{T(v.e[0]), T(v.e[1]), T(v.e[2]), T(v.e[3])} {}
    template <typename U, int M, int... I>
    METAL_FUNC explicit vec(Swizzle<U, M, I...> s) : e{T(s.e[I])...} {}
    METAL_FUNC T& operator[](int i) { return e[i]; }
    METAL_FUNC const T& operator[](int i) const { return e[i]; }
};

template <typename T, int N, int... I>
METAL_FUNC Swizzle<T, N, I...>::operator vec<T, int(sizeof...(I))>() const {
    return vec<T, int(sizeof...(I))>(e[I]...);
}
template <typename T, int N, int... I>
METAL_FUNC Swizzle<T, N, I...>& Swizzle<T, N, I...>::operator=(vec<T, int(sizeof...(I))> v) {
    int from = 0;
    ((e[I] = v.e[from++]), ...);
    return *this;
}

/// Applies f to the elements of one, two or three vectors.
template <typename R, typename T, int N, typename F> METAL_FUNC vec<R, N> map(vec<T, N> a, F f) {
    vec<R, N> r;
    for (int i = 0; i < N; i++) r.e[i] = f(a.e[i]);
    return r;
}
template <typename R, typename T, int N, typename F> METAL_FUNC vec<R, N> map(vec<T, N> a, vec<T, N> b, F f) {
    vec<R, N> r;
    for (int i = 0; i < N; i++) r.e[i] = f(a.e[i], b.e[i]);
    return r;
}

#define EMU_OPERATOR(R, op)                                                                        \
    template <typename T, int N> METAL_FUNC vec<R, N> operator op(vec<T, N> a, vec<T, N> b) {       \
        return map<R>(a, b, [](T x, T y) { return R(x op y); });                                   \
    }                                                                                              \
    template <typename T, int N>                                                                   \
    METAL_FUNC vec<R, N> operator op(vec<T, N> a, type_identity_t<T> b) {                           \
        return a op vec<T, N>(b);                                                                  \
    }                                                                                              \
    template <typename T, int N>                                                                   \
    METAL_FUNC vec<R, N> operator op(type_identity_t<T> a, vec<T, N> b) {                           \
        return vec<T, N>(a) op b;                                                                  \
    }                                                                                              \
    template <typename T, int N, int... I, typename U>                                             \
    METAL_FUNC auto operator op(Swizzle<T, N, I...> a, U b) {                                      \
        return vec<T, int(sizeof...(I))>(a) op b;                                                  \
    }                                                                                              \
    template <typename T, int M, int N, int... I>                                                  \
    METAL_FUNC auto operator op(vec<T, M> a, Swizzle<T, N, I...> b) {                              \
        return a op vec<T, M>(b);                                                                  \
    }                                                                                              \
    template <typename T, int N, int... I>                                                         \
    METAL_FUNC auto operator op(type_identity_t<T> a, Swizzle<T, N, I...> b) {                     \
        return a op vec<T, int(sizeof...(I))>(b);                                                  \
    }
EMU_OPERATOR(T, +)
EMU_OPERATOR(T, -)
EMU_OPERATOR(T, *)
EMU_OPERATOR(T, /)
EMU_OPERATOR(T, %)
EMU_OPERATOR(T, &)
EMU_OPERATOR(T, |)
EMU_OPERATOR(T, ^)
EMU_OPERATOR(T, <<)
EMU_OPERATOR(T, >>)
EMU_OPERATOR(bool, ==)
EMU_OPERATOR(bool, !=)
EMU_OPERATOR(bool, <)
EMU_OPERATOR(bool, <=)
EMU_OPERATOR(bool, >)
EMU_OPERATOR(bool, >=)
EMU_OPERATOR(bool, &&)
EMU_OPERATOR(bool, ||)
#undef EMU_OPERATOR

#define EMU_ASSIGN(op)                                                                             \
    template <typename T, int N> METAL_FUNC vec<T, N>& operator op##=(vec<T, N>& a, vec<T, N> b) {  \
        return a = a op b;                                                                         \
    }                                                                                              \
    template <typename T, int N>                                                                   \
    METAL_FUNC vec<T, N>& operator op##=(vec<T, N>& a, type_identity_t<T> b) {                      \
        return a = a op b;                                                                         \
    }
EMU_ASSIGN(+)
EMU_ASSIGN(-)
EMU_ASSIGN(*)
EMU_ASSIGN(/)
EMU_ASSIGN(&)
EMU_ASSIGN(|)
EMU_ASSIGN(^)
EMU_ASSIGN(<<)
EMU_ASSIGN(>>)
#undef EMU_ASSIGN

template <typename T, int N> METAL_FUNC vec<T, N> operator-(vec<T, N> a) {
    return map<T>(a, [](T x) { return T(-x); });
}
template <typename T, int N> METAL_FUNC vec<T, N> operator~(vec<T, N> a) {
    return map<T>(a, [](T x) { return T(~x); });
}
template <int N> METAL_FUNC vec<bool, N> operator!(vec<bool, N> a) {
    return map<bool>(a, [](bool x) { return !x; });
}
template <int N> METAL_FUNC bool any(vec<bool, N> a) {
    bool r = false;
    for (int i = 0; i < N; i++) r |= a.e[i];
    return r;
}
template <int N> METAL_FUNC bool all(vec<bool, N> a) { return !any(!a); }

template <typename T, int N> METAL_FUNC T dot(vec<T, N> a, vec<T, N> b) {
    T r = a.e[0] * b.e[0];
    for (int i = 1; i < N; i++) r = r + a.e[i] * b.e[i];
    return r;
}

#define EMU_NAMES(T, name)                                                                         \
    typedef vec<T, 2> name##2;                                                                     \
    typedef vec<T, 3> name##3;                                                                     \
    typedef vec<T, 4> name##4;
EMU_NAMES(float, float)
EMU_NAMES(half, half)
EMU_NAMES(bfloat, bfloat)
EMU_NAMES(int, int)
EMU_NAMES(uint, uint)
EMU_NAMES(short, short)
EMU_NAMES(ushort, ushort)
EMU_NAMES(char, char)
EMU_NAMES(uchar, uchar)
EMU_NAMES(long, long)
EMU_NAMES(ulong, ulong)
EMU_NAMES(bool, bool)
#undef EMU_NAMES

/// A vector with the alignment of its elements.
template <typename T, int N> struct packed_vec {
    T e[N];
    packed_vec() = default;
    METAL_FUNC packed_vec(vec<T, N> v) {
        for (int i = 0; i < N; i++) e[i] = v.e[i];
    }
    METAL_FUNC operator vec<T, N>() const {
        vec<T, N> v;
        for (int i = 0; i < N; i++) v.e[i] = e[i];
        return v;
    }
    METAL_FUNC T& operator[](int i) { return e[i]; }
    METAL_FUNC const T& operator[](int i) const { return e[i]; }
};
#define EMU_PACKED(T)                                                                              \
    typedef packed_vec<T, 2> packed_##T##2;                                                        \
    typedef packed_vec<T, 3> packed_##T##3;                                                        \
    typedef packed_vec<T, 4> packed_##T##4;
EMU_PACKED(float)
EMU_PACKED(half)
EMU_PACKED(bfloat)
EMU_PACKED(int)
EMU_PACKED(uint)
EMU_PACKED(ushort)
EMU_PACKED(uchar)
#undef EMU_PACKED

}  // namespace metal
