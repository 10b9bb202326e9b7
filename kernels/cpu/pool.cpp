#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace mlx_llamba {
namespace {

// Polls of a thread for work before it sleeps: about 50 us, longer than the gap between two operations
// of a decoding step.
constexpr int SPINS = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True in a worker, and in a caller while it runs tasks: nested calls run on the same thread.
thread_local bool inside = false;

class Pool {
 public:
  // Fewer threads than wanted do the same work, if the system gives no more.
  explicit Pool(int count) : wanted_(count) {
    workers_.reserve(count);
    try {
      for (int i = 1; i < count; i++) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
    }
  }

  ~Pool() {
    stopping_ = true;
    post(0);
    for (auto& worker : workers_) worker.join();
  }

  int wanted() const {
    return wanted_;
  }

  void run(std::size_t tasks, Task task, const void* context) {
    task_.store(task, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    unfinished_.store(static_cast<std::uint32_t>(tasks), std::memory_order_relaxed);
    post(static_cast<std::uint32_t>(tasks));
    while (step()) {
    }
    // The other threads are in the middle of their last task, unless the system has suspended them.
    for (int spin = 0; unfinished_.load(std::memory_order_acquire) != 0; spin++) {
      if (spin < SPINS) pause();
      else std::this_thread::yield();
    }
  }

 private:
  // The upper half of `ticket_` is the number of a job, the lower half the count of its tasks that no
  // thread has taken. A thread takes a task by counting down, which fails if the job has changed since
  // it was read; so `task_` and `context_`, read before, belong to the job.
  bool step() {
    auto ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(ticket) != 0) {
      const auto task = task_.load(std::memory_order_relaxed);
      const auto context = context_.load(std::memory_order_relaxed);
      if (ticket_.compare_exchange_weak(
              ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        task(context, static_cast<std::uint32_t>(ticket) - 1);
        unfinished_.fetch_sub(1, std::memory_order_acq_rel);
        return true;
      }
    }
    return false;
  }

  void post(std::uint32_t tasks) {
    const auto job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(job << 32 | tasks, std::memory_order_release);
    job_.store(static_cast<std::uint32_t>(job), std::memory_order_seq_cst);
    // Waking costs a system call, so it happens only if a thread sleeps. A thread that counts as
    // sleeping and has not seen this job holds the lock until it waits.
    if (sleeping_.load(std::memory_order_seq_cst) != 0) {
      std::lock_guard lock(bed_);
      wake_.notify_all();
    }
  }

  void work() {
    inside = true;
    for (std::uint32_t seen = 0; !stopping_;) {
      for (int spin = 0; job_.load(std::memory_order_acquire) == seen && spin < SPINS; spin++) pause();
      if (job_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(bed_);
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        while (job_.load(std::memory_order_seq_cst) == seen) wake_.wait(lock);
        sleeping_.fetch_sub(1, std::memory_order_relaxed);
      }
      seen = job_.load(std::memory_order_acquire);
      while (step()) {
      }
    }
  }

  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> unfinished_{0};
  alignas(64) std::atomic<std::uint32_t> job_{0};
  std::mutex bed_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<Task> task_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::vector<std::thread> workers_;
  const int wanted_;
};

int cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

int clamp(int count) {
  return std::clamp(count, 1, 256);
}

std::atomic<int> wanted{0};
std::atomic_flag busy; // a caller uses the pool

int initial() {
  const char* text = std::getenv("MLX_LLAMBA_THREADS");
  const int count = text ? std::atoi(text) : 0;
  return clamp(count > 0 ? count : cores());
}

} // namespace

int threads() {
  if (const int count = wanted.load(std::memory_order_relaxed)) return count;
  static const int count = initial();
  return count;
}

void set_threads(int count) {
  wanted = clamp(count);
}

void parallel(std::size_t tasks, Task run, const void* context) {
  // Never destroyed: a stream of MLX may still compute while the process ends.
  static Pool* pool = nullptr;
  if (inside || tasks < 2 || threads() == 1 || busy.test_and_set(std::memory_order_acquire)) {
    for (std::size_t task = 0; task < tasks; task++) run(context, task);
    return;
  }
  if (!pool || pool->wanted() != threads()) {
    delete pool;
    pool = new Pool(threads());
  }
  inside = true;
  pool->run(tasks, run, context);
  inside = false;
  busy.clear(std::memory_order_release);
}

} // namespace mlx_llamba
