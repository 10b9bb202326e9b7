// The choice between the compilations of the vector code.
//
// Every `*.simd.cpp` is compiled once per level, with that level's flags and with SIMD_LEVEL set to the
// namespace of its definitions. It defines a table of functions there:
//
//     namespace mlx_llamba::SIMD_LEVEL { const FooTable foo_table{...}; }
//
// and a header for the other files declares it with `PER_LEVEL(FooTable, foo_table)`, after which
// `mlx_llamba::foo_table()` returns the one in use.
//
// A `*.simd.cpp` includes no header of the standard library or of MLX that defines functions: an
// inline function compiled for AVX-512 there could be the copy that the linker keeps for all.
#pragma once

namespace mlx_llamba {

enum class Level { baseline, avx2, avx512 };

// Returns the level in use: the best of this machine, or that of MLX_LLAMBA_SIMD (baseline, avx2,
// avx512).
Level level();

// Uses another level from now on; returns false if this machine lacks it. For tests.
bool set_level(const char* name);

// Returns true if there is such a level and this machine has it.
bool has_level(const char* name);

// Returns "avx512", "avx2", "sse2" or "neon".
const char* level_name();

} // namespace mlx_llamba

#if defined(__x86_64__)
#define PER_LEVEL(Table, name)                        \
  namespace baseline { extern const Table name; }     \
  namespace avx2 { extern const Table name; }         \
  namespace avx512 { extern const Table name; }       \
  inline const Table& name() {                        \
    switch (level()) {                                \
      case Level::avx512: return avx512::name;        \
      case Level::avx2: return avx2::name;            \
      default: return baseline::name;                 \
    }                                                 \
  }
#else
#define PER_LEVEL(Table, name)                        \
  namespace baseline { extern const Table name; }     \
  inline const Table& name() { return baseline::name; }
#endif
