// The stand-in for <metal_stdlib> and for what MLX puts before a custom kernel.
#pragma once
#include "abi.h"
#include "math.h"
#include "matrix.h"
#include "scalar.h"
#include "simd.h"
#include "vec.h"

using namespace metal;

// Address spaces are plain memory here. The Rust side turns the keyword `threadgroup` of a
// variable into EMU_THREADGROUP and drops that of a pointer. g++ ignores section attributes in
// templates; where these variables lie is read from the symbol table.
#define device
#define constant
#define thread
// __constinit: no guard variable beside it, which each thread would look at.
#define EMU_THREADGROUP static __constinit __attribute__((used))
// After each array, so that running off its end meets nothing else.
#define EMU_GUARD(id) static __attribute__((used)) char emu_guard_##id[256];
