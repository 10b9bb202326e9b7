// Lets tests build graphs that this machine could not run, and inspect their scans.

#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "mlx/array.h"
#include "mlx/export.h"
#include "mlx/primitives.h"

using mlx::core::array;

/// Calls `build(data)` while MLX records a graph for export, so that a graph can contain custom Metal
/// kernels on machines without Metal. Returns 0, or 1 if MLX threw.
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

/// Counts the scans (cumulative sums and their like) that evaluating `outputs`, pointers to arrays,
/// would run, and among them those that a GPU may compute with writes past the output: over an axis
/// that is not the last, or of an input that was not made contiguous.
extern "C" void graph_scans(
    const void* const* outputs, size_t count, size_t* scans, size_t* unsafe_scans) {
  std::vector<array> waiting;
  std::unordered_set<std::uintptr_t> seen;
  const auto enter = [&](const array& a) {
    if (a.has_primitive() && seen.insert(a.primitive_id()).second) {
      waiting.push_back(a);
    }
  };
  for (size_t i = 0; i < count; i++) {
    enter(*static_cast<const array*>(outputs[i]));
  }
  *scans = *unsafe_scans = 0;
  while (!waiting.empty()) {
    const array a = waiting.back();
    waiting.pop_back();
    // By name: MLX does not export the type information that a dynamic_cast needs.
    const std::string name = a.primitive().name();
    if (name.rfind("Cum", 0) == 0 || name.rfind("LogCum", 0) == 0) {
      const auto& scan = static_cast<const mlx::core::Scan&>(a.primitive());
      const array& input = a.inputs()[0];
      const bool last = std::get<1>(scan.state()) == static_cast<int>(input.ndim()) - 1;
      const bool copied =
          input.has_primitive() && input.primitive().name() == std::string("Contiguous");
      ++*scans;
      *unsafe_scans += !(last && copied && input.shape(-1) > 1);
    }
    for (const array& input : a.inputs()) {
      enter(input);
    }
  }
}
