// Which of the compilations of the vector code runs on this machine.
//
// Every `*.simd.cpp` is compiled once per level, with that level's flags and with SIMD_LEVEL set to
// the namespace it must put everything into. It defines a table of functions there:
//
//     namespace mlx_llamba::SIMD_LEVEL { const FooTable foo_table{...}; }
//
// and a header for the other files declares it with `PER_LEVEL(FooTable, foo_table)`, after which
// `mlx_llamba::foo_table()` is the one to use.
//
// A `*.simd.cpp` includes no header of the standard library or of MLX that defines functions: an
// inline function compiled for AVX-512 there could be the copy that the linker keeps for all.
#pragma once

namespace mlx_llamba {

enum class Level { baseline, avx2, avx512 };

// The level in use: the best of this machine, or what MLX_LLAMBA_SIMD names (baseline, avx2, avx512).
Level level();

// Takes another level from now on; false if this machine has no such level. For tests.
bool set_level(const char* name);

// Whether there is such a level and this machine has it.
bool has_level(const char* name);

// "avx512", "avx2", "sse2" or "neon".
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
