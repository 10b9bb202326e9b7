// Looks into MLX's graphs: which operations an array still waits for.

#include <cstring>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "mlx/array.h"
#include "mlx/export.h"
#include "mlx/primitives.h"

using mlx::core::array;

namespace {

void visit(const array& a, std::unordered_set<std::uintptr_t>& seen, std::string& names) {
  if (!a.has_primitive() || a.is_available() || !seen.insert(a.id()).second) {
    return;
  }
  // The outputs of one operation are siblings; it counts once.
  for (const array& sibling : a.siblings()) {
    seen.insert(sibling.id());
  }
  for (const array& input : a.inputs()) {
    visit(input, seen, names);
  }
  names += a.primitive().name();
  names += '\n';
}

} // namespace

/// Writes the names of all operations that `outputs` wait for, each once and ended by a line feed,
/// into `text`. Returns the bytes needed.
extern "C" std::size_t graph_names(
    const void* const* outputs, std::size_t count, char* text, std::size_t capacity) {
  std::unordered_set<std::uintptr_t> seen;
  std::string names;
  for (std::size_t i = 0; i < count; ++i) {
    visit(*static_cast<const array*>(outputs[i]), seen, names);
  }
  std::memcpy(text, names.data(), std::min(capacity, names.size()));
  return names.size();
}

/// Calls `build(data)` while MLX records a graph for export: then custom Metal kernels can be put
/// into a graph on machines without Metal. Returns 0, or 1 if MLX threw.
extern "C" int graph_while_exporting(void (*build)(void*), void* data) {
  const auto trace = [&](const std::vector<array>& inputs) {
    build(data);
    return inputs;
  };
  try {
    mlx::core::export_function(
        mlx::core::ExportCallback([](const mlx::core::ExportCallbackInput&) {}),
        std::function<std::vector<array>(const std::vector<array>&)>(trace),
        std::vector<array>{array(0.0f)});
    return 0;
  } catch (...) {
    return 1;
  }
}
