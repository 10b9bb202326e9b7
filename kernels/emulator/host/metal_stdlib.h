// Replaces <metal_stdlib> and the code that MLX puts before a custom kernel.
#pragma once
#include "abi.h"
#include "math.h"
#include "matrix.h"
#include "scalar.h"
#include "simd.h"
#include "vec.h"

using namespace metal;

// The Rust side replaces the keyword `threadgroup` of a variable by EMU_THREADGROUP, followed by a
// guard, and that of a pointer by EMU_LOCAL. When kernels run, address spaces are plain memory; when
// clang checks them, they are types.
#define thread
#ifdef EMU_CHECK
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define EMU_LOCAL __attribute__((address_space(3)))
#define EMU_THREADGROUP static EMU_LOCAL
#define EMU_GUARD(id)
#else
#define device
#define constant
#define EMU_LOCAL
// __constinit: without a guard variable, which each thread would read. g++ ignores section attributes
// in templates; the addresses of these variables are read from the symbol table.
#define EMU_THREADGROUP static __constinit __attribute__((used))
// An access past the end of an array reaches nothing else.
#define EMU_GUARD(id) static __attribute__((used)) char emu_guard_##id[256];
#endif
