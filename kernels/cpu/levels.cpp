#include "levels.h"

#include <atomic>
#include <cstdlib>
#include <optional>
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

std::optional<Level> find(std::string_view name) {
  if (name == "baseline") return Level::baseline;
  if (name == "avx2" && has(Level::avx2)) return Level::avx2;
  if (name == "avx512" && has(Level::avx512)) return Level::avx512;
  return std::nullopt;
}

std::atomic<Level>& current() {
  static std::atomic<Level> current{[] {
    const char* name = std::getenv("MLX_LLAMBA_SIMD");
    return find(name ? name : "").value_or(best());
  }()};
  return current;
}

} // namespace

Level level() {
  return current().load(std::memory_order_relaxed);
}

bool set_level(const char* name) {
  current() = find(name).value_or(best());
  return has_level(name);
}

bool has_level(const char* name) {
  return find(name).has_value();
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
