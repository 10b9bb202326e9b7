// simdgroup_matrix: 8 by 8, two elements per lane in Apple's layout.
#pragma once
#include "simd.h"

namespace metal {

METAL_FUNC uint emu_row(uint lane) { return ((lane / 4) & 4) + (lane / 2) % 4; }
METAL_FUNC uint emu_col(uint lane) { return ((lane / 4) & 2) * 2 + (lane % 2) * 2; }

template <typename T, int C = 8, int R = 8> struct simdgroup_matrix {
    static_assert(C == 8 && R == 8, "simdgroup matrices are 8 by 8");
    vec<T, 2> e;  // (row, col) and (row, col + 1)

    simdgroup_matrix() = default;
    /// Diagonal.
    METAL_FUNC explicit simdgroup_matrix(T x) {
        uint row = emu_row(emu_lane()), col = emu_col(emu_lane());
        e = vec<T, 2>(row == col ? x : T(0), row == col + 1 ? x : T(0));
    }
    METAL_FUNC vec<T, 2>& thread_elements() { return e; }
    METAL_FUNC const vec<T, 2>& thread_elements() const { return e; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int C = 8, int R = 8>
METAL_FUNC simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T x) {
    simdgroup_matrix<T, C, R> m;
    m.e = vec<T, 2>(x);
    return m;
}

/// Used for its type: an element of any address space as a value.
template <typename T> T emu_value(T x);

/// Returns the addresses of this lane's two elements.
METAL_FUNC ulong emu_place(uint i, ulong pitch, ulong2 origin, bool transpose) {
    ulong row = emu_row(emu_lane()), col = emu_col(emu_lane()) + i;
    if (transpose) return origin.e[0] + origin.e[1] * pitch + row + col * pitch;
    return origin.e[0] + origin.e[1] * pitch + col + row * pitch;
}

template <typename T, typename U>
METAL_FUNC void simdgroup_load(simdgroup_matrix<T, 8, 8>& d, const U* src, ulong elements_per_row = 8,
                               ulong2 matrix_origin = ulong2(0), bool transpose_matrix = false, EMU_SITE) {
    static_assert(is_same_v<T, decltype(emu_value(*src))>, "simdgroup_load does not convert");
    emu_all("simdgroup_load", 0, file, line);
    for (uint i = 0; i < 2; i++) d.e.e[i] = src[emu_place(i, elements_per_row, matrix_origin, transpose_matrix)];
}

template <typename T, typename U>
METAL_FUNC void simdgroup_store(simdgroup_matrix<T, 8, 8> a, U* dst, ulong elements_per_row = 8,
                                ulong2 matrix_origin = ulong2(0), bool transpose_matrix = false, EMU_SITE) {
    static_assert(is_same_v<T, decltype(emu_value(*dst))>, "simdgroup_store does not convert");
    emu_all("simdgroup_store", 0, file, line);
    for (uint i = 0; i < 2; i++) dst[emu_place(i, elements_per_row, matrix_origin, transpose_matrix)] = a.e.e[i];
}

/// d = a b + c, summed in float in the order of the inner dimension.
template <typename D, typename A, typename B, typename C>
METAL_FUNC void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                              simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c,
                                              EMU_SITE) {
    struct Both { A a0, a1; B b0, b1; };
    Both all[32];
    __builtin_memcpy(all, emu_all("simdgroup_multiply_accumulate",
                                  Both{a.e.e[0], a.e.e[1], b.e.e[0], b.e.e[1]}, file, line), sizeof all);
    uint row = emu_row(emu_lane()), col = emu_col(emu_lane());
    float r0 = float(c.e.e[0]), r1 = float(c.e.e[1]);
    for (uint k = 0; k < 8; k++) {
        // The lanes that hold (row, k) of a and (k, col) of b: the inverse of emu_row and emu_col.
        uint i = (row & 4) * 4 + (row & 3) * 2 + (k & 4) * 2 + ((k >> 1) & 1);
        uint j = (k & 4) * 4 + (k & 3) * 2 + (col & 4) * 2 + ((col >> 1) & 1);
        float x = float(k & 1 ? all[i].a1 : all[i].a0);
        r0 = __builtin_fmaf(x, float(all[j].b0), r0);
        r1 = __builtin_fmaf(x, float(all[j].b1), r1);
    }
    d.e = vec<D, 2>(D(r0), D(r1));
}
template <typename D, typename A, typename B>
METAL_FUNC void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, EMU_SITE) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float>(0.0f), file, line);
}

}  // namespace metal
