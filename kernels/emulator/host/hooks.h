// The functions that kernels call when compiled with g++'s -fsanitize=thread and -fsanitize=bounds,...
// Their names and arguments are the compiler's, their bodies are ours.
#pragma once
#include "memory.h"

#define HERE __builtin_return_address(0)
#define EMU_HOOK(size)                                                                             \
    void __tsan_read##size(void* p) { access(p, size, false, HERE); }                              \
    void __tsan_write##size(void* p) { access(p, size, true, HERE); }                              \
    void __tsan_unaligned_read##size(void* p) { access(p, size, false, HERE); }                    \
    void __tsan_unaligned_write##size(void* p) { access(p, size, true, HERE); }                    \
    void __tsan_volatile_read##size(void* p) { access(p, size, false, HERE); }                     \
    void __tsan_volatile_write##size(void* p) { access(p, size, true, HERE); }
#define EMU_HOOK_ALIGNED(size)                                                                     \
    void __tsan_read##size(void* p) { aligned_access(p, size, false, HERE); }                      \
    void __tsan_write##size(void* p) { aligned_access(p, size, true, HERE); }                      \
    void __tsan_unaligned_read##size(void* p) { access(p, size, false, HERE); }                    \
    void __tsan_unaligned_write##size(void* p) { access(p, size, true, HERE); }                    \
    void __tsan_volatile_read##size(void* p) { aligned_access(p, size, false, HERE); }             \
    void __tsan_volatile_write##size(void* p) { aligned_access(p, size, true, HERE); }

static void aligned_access(void* p, uint32_t size, bool write, const void* pc) {
    if (g.current && uintptr_t(p) % size) {
        EmuFault f = fault_at(EMU_MISALIGNED, pc);
        f.size = size;
        f.write = write;
        note(f);
        stop_run();  // the instruction may trap
    }
    access(p, size, write, pc);
}

struct UbsanPlace {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] static void ubsan(EmuFaultKind kind, UbsanPlace* place, const char* what, int64_t value) {
    EmuFault f = fault_in(kind, place->file, int(place->line));
    snprintf(f.text, sizeof f.text, "%s %ld", what, long(value));
    if (g.current) {
        note(f);
        stop_run();
    }
    abort();
}

extern "C" {
EMU_HOOK(1)
EMU_HOOK_ALIGNED(2)
EMU_HOOK_ALIGNED(4)
EMU_HOOK_ALIGNED(8)
EMU_HOOK_ALIGNED(16)
void __tsan_read_range(void* p, size_t n) { access(p, uint32_t(n), false, HERE); }
void __tsan_write_range(void* p, size_t n) { access(p, uint32_t(n), true, HERE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}

void __ubsan_handle_type_mismatch_v1(UbsanPlace* place, uintptr_t address) {
    ubsan(EMU_MISALIGNED, place, "address, modulo 64:", int64_t(address % 64));
}
void __ubsan_handle_out_of_bounds(UbsanPlace* place, uintptr_t index) {
    ubsan(EMU_INDEX_BOUNDS, place, "index", int64_t(index));
}
void __ubsan_handle_divrem_overflow(UbsanPlace* place, uintptr_t a, uintptr_t) {
    ubsan(EMU_ARITHMETIC, place, "division by zero, or overflow, of", int64_t(a));
}
void __ubsan_handle_shift_out_of_bounds(UbsanPlace* place, uintptr_t, uintptr_t by) {
    ubsan(EMU_ARITHMETIC, place, "shift by", int64_t(by));
}
void __ubsan_handle_add_overflow(UbsanPlace* place, uintptr_t a, uintptr_t) {
    ubsan(EMU_ARITHMETIC, place, "overflow of a signed sum with", int64_t(int32_t(a)));
}
void __ubsan_handle_sub_overflow(UbsanPlace* place, uintptr_t a, uintptr_t) {
    ubsan(EMU_ARITHMETIC, place, "overflow of a signed difference with", int64_t(int32_t(a)));
}
void __ubsan_handle_mul_overflow(UbsanPlace* place, uintptr_t a, uintptr_t) {
    ubsan(EMU_ARITHMETIC, place, "overflow of a signed product with", int64_t(int32_t(a)));
}
void __ubsan_handle_negate_overflow(UbsanPlace* place, uintptr_t a) {
    ubsan(EMU_ARITHMETIC, place, "overflow of the negative of", int64_t(int32_t(a)));
}
}
