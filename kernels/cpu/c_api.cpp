#include "c_api.h"

#include <unordered_set>
#include <vector>

#include "levels.h"
#include "mlx/primitives.h"
#include "pool.h"

namespace mlx_llamba {
namespace {
thread_local std::string error_text;
}

void set_error(const char* text) {
  try {
    error_text = text;
  } catch (...) {
    error_text.clear();
  }
}
} // namespace mlx_llamba

using namespace mlx_llamba;

// The text of this thread's last error; valid until its next one.
extern "C" const char* mlx_llamba_error() {
  return error_text.c_str();
}

extern "C" const char* mlx_llamba_simd() {
  return level_name();
}

extern "C" int mlx_llamba_set_simd(const char* name) {
  return set_level(name) ? 0 : 1;
}

extern "C" int mlx_llamba_has_simd(const char* name) {
  return has_level(name);
}

extern "C" int mlx_llamba_threads() {
  return threads();
}

extern "C" void mlx_llamba_set_threads(int count) {
  set_threads(count);
}

// Calls `visit(context, name)` for every operation that evaluating `outputs` would run, inputs first.
extern "C" int mlx_llamba_operations(
    const void* const* outputs, size_t count, void (*visit)(void*, const char*), void* context) {
  return guard([&] {
    using mlx::core::array;
    std::unordered_set<std::uintptr_t> seen;
    // Depth first without recursion: graphs are deep.
    std::vector<std::pair<array, size_t>> path;
    const auto enter = [&](const array& a) {
      const bool waits = a.status() == array::Status::unscheduled && a.has_primitive();
      if (waits && seen.insert(a.primitive_id()).second) path.emplace_back(a, 0);
    };
    for (size_t i = 0; i < count; i++) {
      enter(from_handle(outputs[i]));
      while (!path.empty()) {
        auto& [a, next] = path.back();
        if (next < a.inputs().size()) {
          const array input = a.inputs()[next++];
          enter(input);
        } else {
          visit(context, a.primitive().name());
          path.pop_back();
        }
      }
    }
  });
}
