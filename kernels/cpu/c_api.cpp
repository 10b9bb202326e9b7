#include "c_api.h"

#include <unordered_set>
#include <vector>

#include "levels.h"
#include "op.h"
#include "pool.h"

using namespace mlx_llamba;

const char* mlx_llamba_simd() {
  return level_name();
}

int mlx_llamba_set_simd(const char* name) {
  return set_level(name) ? 0 : 1;
}

int mlx_llamba_has_simd(const char* name) {
  return has_level(name);
}

int mlx_llamba_threads() {
  return threads();
}

void mlx_llamba_set_threads(int count) {
  set_threads(count);
}

int mlx_llamba_operations(
    const mlx_llamba_array* const* outputs, mlx_llamba_size count, void (*visit)(void* context, const char* name),
    void* context) {
  return guard([&] {
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
