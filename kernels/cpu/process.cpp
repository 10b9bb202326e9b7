// For programs, which call this once: what C++ code cannot report ends the process in order. Nothing of
// it happens to a program that does not call it.
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "c_api.h"

namespace {

[[noreturn]] void end() {
  const char* reason = "a thread of MLX ended unexpectedly";
  try {
    if (const auto error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    reason = "out of memory";
  } catch (const std::system_error&) {
    reason = "the system refused a thread";
  } catch (...) {
  }
  std::fprintf(stderr, "error: %s\n", reason);
  std::_Exit(1);
}

} // namespace

int mlx_llamba_guard_process(int count) {
  std::set_terminate(end);
  // Rust aborts when memory runs out, after a line that says so.
  std::signal(SIGABRT, [](int) { std::_Exit(1); });
  // Threads of MLX cannot be done without, and it does not survive it when the system refuses one.
  std::mutex lock;
  std::condition_variable all;
  bool done = false;
  std::vector<std::thread> threads;
  int started = 0;
  try {
    threads.reserve(count);
    for (; started < count; started++) {
      threads.emplace_back([&] {
        std::free(std::malloc(1 << 16));
        std::unique_lock held(lock);
        all.wait(held, [&] { return done; });
      });
    }
  } catch (const std::exception&) {
  }
  {
    const std::lock_guard held(lock);
    done = true;
  }
  all.notify_all();
  for (auto& thread : threads) thread.join();
  return started;
}
