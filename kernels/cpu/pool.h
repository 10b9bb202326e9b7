// The threads that share the work of an operation.
#pragma once

#include <cstddef>
#include <type_traits>

namespace mlx_llamba {

// Returns the number of threads in use, including the caller: the cores that this process may use, or
// MLX_LLAMBA_THREADS.
int threads();

// Uses this many threads from now on, 1 to 256. For tests and benchmarks.
void set_threads(int count);

using Task = void (*)(const void* context, std::size_t task);

void parallel(std::size_t tasks, Task run, const void* context);

// Runs `f(task)` for every task below `tasks`, in any order, on any of the threads; returns when all
// are done. Tasks must write to different memory, and their results must not depend on the thread.
// Inside a task, and while another caller uses the pool, everything runs on the calling thread. `f`
// must not throw.
template <class F>
void parallel(std::size_t tasks, const F& f) {
  parallel(
      tasks, [](const void* context, std::size_t task) { (*static_cast<const F*>(context))(task); }, &f);
}

// Elements of a small operation that one thread handles in a few microseconds: fewer are not worth
// sharing.
constexpr std::size_t GRAIN = 8192;

// Splits `count` items into ranges of multiples of `grain` and runs `f(begin, end)` on each. There are
// several ranges per thread, so that the others help a thread that the system interrupts.
template <class F>
void parallel_ranges(std::size_t count, std::size_t grain, const F& f) {
  const std::size_t grains = (count + grain - 1) / grain;
  const std::size_t most = static_cast<std::size_t>(threads()) * 8;
  const std::size_t tasks = threads() == 1 ? (grains ? 1 : 0) : (grains < most ? grains : most);
  parallel(tasks, [&](std::size_t task) {
    const std::size_t begin = grains * task / tasks * grain, end = grains * (task + 1) / tasks * grain;
    f(begin, end < count ? end : count);
  });
}

} // namespace mlx_llamba
