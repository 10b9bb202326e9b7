#include "levels.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace mlx_llamba {
namespace {

bool has(Level level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (level) {
    case Level::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && has(Level::avx2);
    case Level::avx2:
      // Every processor with AVX2 has F16C, which older compilers cannot ask for.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default: return true;
  }
#else
  return level == Level::baseline;
#endif
}

Level best() {
  if (has(Level::avx512)) return Level::avx512;
  return has(Level::avx2) ? Level::avx2 : Level::baseline;
}

// `best()` if there is no such name or the machine has no such level.
Level named(std::string_view name) {
  Level level = best();
  if (name == "baseline") level = Level::baseline;
  if (name == "avx2") level = Level::avx2;
  if (name == "avx512") level = Level::avx512;
  return has(level) ? level : best();
}

std::atomic<Level>& current() {
  static std::atomic<Level> current{[] {
    const char* name = std::getenv("MLX_LLAMBA_SIMD");
    return named(name ? name : "");
  }()};
  return current;
}

} // namespace

Level level() {
  return current().load(std::memory_order_relaxed);
}

bool set_level(const char* name) {
  current() = named(name);
  return std::string_view(name) == "baseline" ? level() == Level::baseline : level_name() == std::string_view(name);
}

const char* level_name() {
  switch (level()) {
    case Level::avx512: return "avx512";
    case Level::avx2: return "avx2";
    default:
#if defined(__x86_64__)
      return "sse2";
#else
      return "neon";
#endif
  }
}

} // namespace mlx_llamba
