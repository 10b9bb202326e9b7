// For programs: what C++ code cannot report ends the process in order.
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

#if defined(__linux__) && defined(__GLIBC__)
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>

namespace {

// Few processes, or a bound of the memory.
bool limited() {
  rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) return true;
  if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur < 1024) return true;
  char text[16] = {};
  const int file = open("/sys/fs/cgroup/pids.max", O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const auto length = read(file, text, sizeof text - 1);
  close(file);
  return length > 0 && text[0] != 'm' && std::atoi(text) < 1024;
}

// OpenBLAS starts threads when it is loaded, and where that fails it ends the process or waits for
// ever. It reads the number of threads from the environment, which a program can change only by
// starting again. This runs before any library is initialized.
void early(int, char** argv, char** environment) {
  constexpr char NAME[] = "OPENBLAS_NUM_THREADS=";
  constexpr std::size_t MOST = 4096;
  static char one[] = "OPENBLAS_NUM_THREADS=1";
  static char* changed[MOST + 2];
  std::size_t count = 0;
  for (; environment[count]; count++) {
    if (count == MOST || std::strncmp(environment[count], NAME, sizeof NAME - 1) == 0) return;
    changed[count] = environment[count];
  }
  if (!limited()) return;
  changed[count] = one;
  execve("/proc/self/exe", argv, changed);
}

__attribute__((section(".preinit_array"), used)) void (*const entry)(int, char**, char**) = early;

} // namespace
#endif

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
