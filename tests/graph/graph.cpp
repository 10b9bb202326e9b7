// Lets tests build graphs that this machine could not run.

#include <functional>
#include <vector>

#include "mlx/array.h"
#include "mlx/export.h"

using mlx::core::array;

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
