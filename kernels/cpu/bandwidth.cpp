#include "bandwidth.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "c_api.h"
#include "pool.h"

using namespace mlx_llamba;

// Bytes a second that all threads together read from `bytes` bytes of memory: the best of `times`.
extern "C" int mlx_llamba_read_bandwidth(size_t bytes, int times, double* result) {
  return guard([&] {
    constexpr size_t PART = 1 << 18; // floats of a task
    const size_t parts = std::max<size_t>(bytes / sizeof(float) / PART, 1);
    const std::vector<float> memory(parts * PART, 1.0f);
    std::vector<float> sums(parts);
    double best = 0;
    for (int i = 0; i < times; i++) {
      const auto start = std::chrono::steady_clock::now();
      // As products are shared out: neighbours to one thread.
      parallel_ranges(parts, 1, [&](size_t begin, size_t end) {
        sums[begin] = bandwidth_table().sum(memory.data() + begin * PART, (end - begin) * PART);
      });
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(parts * PART * sizeof(float)) / seconds.count());
    }
    *result = best;
  });
}
