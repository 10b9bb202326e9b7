// The interface between a compiled kernel, the runtime and the Rust side. Plain C layouts only.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct EmuUint3 {
    uint32_t x, y, z;
};

/// The position of one thread: the values of Metal's attributes.
struct EmuIds {
    EmuUint3 thread_in_grid, thread_in_group, group_in_grid;
    EmuUint3 threads_per_grid, groups_per_grid, threads_per_group, dispatch_threads_per_group;
    uint32_t index_in_group, lane, simdgroup, simdgroups, lanes;
};

/// A buffer of the launch, and its counts.
struct EmuBuffer {
    void* data;        // copied in before the run; of an output, copied back after it
    uint64_t bytes;
    uint32_t element;  // bytes of an element
    uint32_t output;   // 1: the kernel may write it
    uint32_t filled;   // 1: an output that MLX fills (`init_value`) before the launch
    uint32_t offset;   // elements between an aligned address and the first
    // Results. "Raw" counts every access of every thread; the others count each byte once per
    // threadgroup, and once overall.
    uint64_t raw_read, raw_written;
    uint64_t group_read, group_written;
    uint64_t once_read, once_written;
    uint64_t lines_read, lines_written;   // 128-byte lines, once per instruction of a simdgroup
    uint64_t unwritten, first_unwritten;  // elements never written, and the first of them
};

enum EmuFaultKind : uint32_t {
    EMU_DEVICE_BOUNDS,
    EMU_THREADGROUP_BOUNDS,
    EMU_WILD_ADDRESS,
    EMU_INDEX_BOUNDS,
    EMU_MISALIGNED,
    EMU_INPUT_WRITTEN,
    EMU_THREADGROUP_UNINITIALISED,
    EMU_OUTPUT_UNINITIALISED,
    EMU_THREADGROUP_RACE,
    EMU_DEVICE_RACE,
    EMU_BARRIER_DIVERGENCE,
    EMU_SIMD_DIVERGENCE,
    EMU_ARITHMETIC,
    EMU_SIMD_LANE,
};

/// A fault at one position in the source, and its number of occurrences.
struct EmuFault {
    uint32_t kind;
    uint32_t write;         // 1: the access was a write
    EmuUint3 group, thread;  // of the first occurrence
    uint64_t pc, other_pc;  // offsets in the library, 0 if unknown; symbolized by the Rust side
    const char* file;       // or the position itself
    uint64_t line;
    const char* other_file;
    uint64_t other_line;
    EmuUint3 other_group, other_thread;
    int32_t buffer;         // index in the launch's buffers, or -1
    uint32_t size;          // bytes of the access
    int64_t offset;         // bytes from the start of the buffer, or of threadgroup memory
    uint64_t count;
    char text[96];          // details
};

/// A variable in threadgroup memory, by its offset from the first.
struct EmuVariable {
    uint64_t offset, bytes;
    uint32_t guard;  // 1: padding between the arrays of a kernel, which must not be accessed
    uint32_t reserved;
};

struct EmuLaunch {
    EmuBuffer* buffers;
    uint64_t buffer_count;
    const EmuVariable* variables;
    uint64_t variable_count;
    uint64_t threadgroup_offset, threadgroup_bytes;  // position of the variables in the library
    EmuUint3 grid, group;
    EmuFault* faults;
    uint64_t fault_capacity, fault_count;
    uint64_t barriers, simd_ops, groups;
};

extern "C" {
/// Runtime: runs a launch and returns 0, or an errno if memory runs out.
int emu_run(EmuLaunch* launch);
/// Kernel: runs one thread.
void emu_kernel(void** buffers, const EmuIds* ids);

// Functions that kernels call. `file` and `line` are the position in the kernel's source.
void emu_threadgroup_barrier(uint32_t flags, const char* file, int line);
void emu_simdgroup_barrier(uint32_t flags, const char* file, int line);
/// Waits until every lane of the simdgroup is at the same call; returns all lanes' values, `bytes` apart.
const void* emu_exchange(const char* op, const void* mine, uint32_t bytes, const char* file, int line);
uint32_t emu_lane(void);
uint32_t emu_lanes(void);
void emu_atomic(const void* address, uint32_t bytes, uint32_t write);
void emu_bad_lane(const char* op, uint32_t lane, const char* file, int line);
}
