// Barriers, simdgroup functions and atomics. Every lane of a simdgroup must reach the same call;
// otherwise the runtime stops the kernel.
#pragma once
#include "abi.h"
#include "math.h"

namespace metal {

enum class mem_flags : uint {
    mem_none = 0,
    mem_device = 1,
    mem_threadgroup = 2,
    mem_texture = 4,
    mem_device_and_threadgroup = 3,
};
METAL_FUNC constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

// The position of a collective call in the kernel, as default arguments.
#define EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

METAL_FUNC void threadgroup_barrier(mem_flags flags, EMU_SITE) {
    emu_threadgroup_barrier(uint(flags), file, line);
    __asm__ volatile("" ::: "memory");
}
METAL_FUNC void simdgroup_barrier(mem_flags flags, EMU_SITE) {
    emu_simdgroup_barrier(uint(flags), file, line);
    __asm__ volatile("" ::: "memory");
}

template <typename T> METAL_FUNC const T* emu_all(const char* op, T mine, const char* file, int line) {
    static_assert(sizeof(T) <= 64, "an exchanged value is at most 64 bytes");
    const T* all = static_cast<const T*>(emu_exchange(op, &mine, sizeof(T), file, line));
    __asm__ volatile("" ::: "memory");
    return all;
}

/// Reduces over the lanes in pairs, then pairs of pairs, in the same order in every lane.
template <typename T, typename F> METAL_FUNC T emu_reduce(const T* all, F f) {
    T r[32];
    uint lanes = emu_lanes();
    __builtin_memcpy(r, all, sizeof r);  // not announced as single loads
    for (uint step = 1; step < 32; step *= 2)
        for (uint i = 0; i + step < lanes; i += 2 * step) r[i] = f(r[i], r[i + step]);
    return r[0];
}

#define EMU_REDUCE(name, value)                                                                    \
    template <typename T> METAL_FUNC T name(T mine, EMU_SITE) {                                    \
        return emu_reduce(emu_all(#name, mine, file, line), [](T a, T b) { return T(value); });    \
    }
EMU_REDUCE(simd_sum, a + b)
EMU_REDUCE(simd_product, a * b)
EMU_REDUCE(simd_max, max(a, b))
EMU_REDUCE(simd_min, min(a, b))
EMU_REDUCE(simd_and, a & b)
EMU_REDUCE(simd_or, a | b)
EMU_REDUCE(simd_xor, a ^ b)
#undef EMU_REDUCE

METAL_FUNC bool simd_all(bool mine, EMU_SITE) {
    return emu_reduce(emu_all("simd_all", mine, file, line), [](bool a, bool b) { return a && b; });
}
METAL_FUNC bool simd_any(bool mine, EMU_SITE) {
    return emu_reduce(emu_all("simd_any", mine, file, line), [](bool a, bool b) { return a || b; });
}
METAL_FUNC bool simd_is_first() { return emu_lane() == 0; }

#define EMU_PREFIX(name, start, value, last)                                                       \
    template <typename T> METAL_FUNC T name(T mine, EMU_SITE) {                                    \
        const T* all = emu_all(#name, mine, file, line);                                           \
        T a = T(start);                                                                            \
        for (uint i = 0; i < emu_lane() + last; i++) {                                             \
            T b = all[i];                                                                          \
            a = T(value);                                                                          \
        }                                                                                          \
        return a;                                                                                  \
    }
EMU_PREFIX(simd_prefix_inclusive_sum, 0, a + b, 1)
EMU_PREFIX(simd_prefix_exclusive_sum, 0, a + b, 0)
EMU_PREFIX(simd_prefix_inclusive_product, 1, a * b, 1)
EMU_PREFIX(simd_prefix_exclusive_product, 1, a * b, 0)
#undef EMU_PREFIX

/// Returns the value of lane `from`. Metal leaves that of a missing lane undefined: shifts keep `mine`,
/// and a shuffle from it is a fault.
template <typename T>
METAL_FUNC T emu_from(const char* op, T mine, int from, bool strict, const char* file, int line) {
    const T* all = emu_all(op, mine, file, line);
    if (from >= 0 && uint(from) < emu_lanes()) return all[from];
    if (strict) emu_bad_lane(op, uint(from), file, line);
    return mine;
}
template <typename T> METAL_FUNC T simd_shuffle(T mine, ushort lane, EMU_SITE) {
    return emu_from("simd_shuffle", mine, lane, true, file, line);
}
template <typename T> METAL_FUNC T simd_broadcast(T mine, ushort lane, EMU_SITE) {
    return emu_from("simd_broadcast", mine, lane, true, file, line);
}
template <typename T> METAL_FUNC T simd_broadcast_first(T mine, EMU_SITE) {
    return emu_from("simd_broadcast_first", mine, 0, true, file, line);
}
template <typename T> METAL_FUNC T simd_shuffle_xor(T mine, ushort mask, EMU_SITE) {
    return emu_from("simd_shuffle_xor", mine, int(emu_lane() ^ mask), true, file, line);
}
template <typename T> METAL_FUNC T simd_shuffle_up(T mine, ushort delta, EMU_SITE) {
    return emu_from("simd_shuffle_up", mine, int(emu_lane()) - int(delta), false, file, line);
}
template <typename T> METAL_FUNC T simd_shuffle_down(T mine, ushort delta, EMU_SITE) {
    return emu_from("simd_shuffle_down", mine, int(emu_lane()) + int(delta), false, file, line);
}
template <typename T> METAL_FUNC T simd_shuffle_rotate_up(T mine, ushort delta, EMU_SITE) {
    return emu_from("simd_shuffle_rotate_up", mine, int((emu_lane() - delta) & 31u), true, file, line);
}
template <typename T> METAL_FUNC T simd_shuffle_rotate_down(T mine, ushort delta, EMU_SITE) {
    return emu_from("simd_shuffle_rotate_down", mine, int((emu_lane() + delta) & 31u), true, file, line);
}
/// Shifts up by delta within runs of `modulo` lanes; the first delta lanes of a run take the last
/// delta of `fill`'s.
template <typename T>
METAL_FUNC T simd_shuffle_and_fill_up(T mine, T fill, ushort delta, ushort modulo = 32, EMU_SITE) {
    struct Both { T mine, fill; };
    const Both* all = emu_all("simd_shuffle_and_fill_up", Both{mine, fill}, file, line);
    uint run = emu_lane() / modulo * modulo, at = emu_lane() % modulo;
    uint from = at >= delta ? run + at - delta : run + at + modulo - delta;
    if (from >= emu_lanes()) { emu_bad_lane("simd_shuffle_and_fill_up", from, file, line); return mine; }
    return at >= delta ? all[from].mine : all[from].fill;
}
/// Shifts down by delta; the last delta lanes of a run take the first delta of `fill`'s.
template <typename T>
METAL_FUNC T simd_shuffle_and_fill_down(T mine, T fill, ushort delta, ushort modulo = 32, EMU_SITE) {
    struct Both { T mine, fill; };
    const Both* all = emu_all("simd_shuffle_and_fill_down", Both{mine, fill}, file, line);
    uint run = emu_lane() / modulo * modulo, at = emu_lane() % modulo;
    uint from = at + delta < modulo ? run + at + delta : run + at + delta - modulo;
    if (from >= emu_lanes()) { emu_bad_lane("simd_shuffle_and_fill_down", from, file, line); return mine; }
    return at + delta < modulo ? all[from].mine : all[from].fill;
}

enum memory_order { memory_order_relaxed };
/// One thread runs at a time, so plain operations are atomic; the runtime counts them.
template <typename T> struct atomic { T v; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
#define EMU_ATOMIC(name, value)                                                                    \
    template <typename T>                                                                          \
    METAL_FUNC T name(volatile atomic<T>* p, type_identity_t<T> b, memory_order) {                  \
        emu_atomic(const_cast<atomic<T>*>(p), sizeof(T), 1);                                       \
        T a = const_cast<atomic<T>*>(p)->v;                                                        \
        const_cast<atomic<T>*>(p)->v = T(value);                                                   \
        emu_atomic(nullptr, 0, 0);                                                                 \
        return a;                                                                                  \
    }
EMU_ATOMIC(atomic_store_explicit, b)
EMU_ATOMIC(atomic_exchange_explicit, b)
EMU_ATOMIC(atomic_fetch_add_explicit, a + b)
EMU_ATOMIC(atomic_fetch_sub_explicit, a - b)
EMU_ATOMIC(atomic_fetch_max_explicit, max(a, b))
EMU_ATOMIC(atomic_fetch_min_explicit, min(a, b))
EMU_ATOMIC(atomic_fetch_or_explicit, a | b)
EMU_ATOMIC(atomic_fetch_and_explicit, a & b)
#undef EMU_ATOMIC
template <typename T> METAL_FUNC T atomic_load_explicit(const volatile atomic<T>* p, memory_order) {
    emu_atomic(const_cast<const atomic<T>*>(p), sizeof(T), 0);
    T a = const_cast<const atomic<T>*>(p)->v;
    emu_atomic(nullptr, 0, 0);
    return a;
}

}  // namespace metal
