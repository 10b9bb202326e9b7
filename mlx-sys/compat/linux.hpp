// Comes before every file of mlx-c on Linux, and supplies what it takes from a Mac's compiler.
#pragma once
#include <version>

// In the place of mlx-c's half.h, which has half types on Arm only, and there the compiler's: MLX's
// own have the same layout.
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
#include "mlx/types/half_types.h"
using float16_t = mlx::core::float16_t;
using bfloat16_t = mlx::core::bfloat16_t;

#if !defined(__cpp_lib_format)
// g++ before 13 has no std::format. mlx-c uses it with `{}` alone, never `{{`.
#include <sstream>
#include <string>
#include <string_view>

namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  const auto put = [&](const auto& arg) {
    const size_t hole = pattern.find("{}");
    out << pattern.substr(0, hole) << arg;
    pattern.remove_prefix(hole + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif
