// The state of the runtime during a launch. A library runs one launch at a time (the Rust side holds a
// lock), on one thread of the host.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "fiber.h"

constexpr uint32_t SIMD = 32;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t SLOT_BYTES = SIMD * 64;

enum class At : uint8_t { Running, ThreadgroupBarrier, Simd, Ended };

struct Fiber {
    Context context;
    char* stack;
    EmuIds ids;
    At at;
    const char* op;  // the operation it waits in
    const char* file;
    int line;
    uint32_t flags, bytes;
    uint32_t turn;  // which half of the simdgroup's slots the next exchange uses
};

struct Simdgroup {
    uint32_t first, lanes;
    uint32_t epoch_threadgroup, epoch_device;  // simdgroup barriers passed
    alignas(64) char slots[2][SLOT_BYTES];
};

struct State {
    EmuLaunch* launch;
    Fiber fibers[MAX_THREADS];
    Simdgroup simdgroups[MAX_THREADS / SIMD];
    Context scheduler;
    Fiber* current;
    uint32_t threads;
    uint32_t group;  // serial number of the threadgroup, from 1
    EmuUint3 group_id;
    uint32_t epoch_threadgroup, epoch_device;  // threadgroup barriers passed, over all groups
    bool stopped;
    bool in_atomic;
};
static State g;

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

static uint64_t library_offset(const void* pc) {
    return pc ? uint64_t(static_cast<const char*>(pc) - __ehdr_start) : 0;
}

[[noreturn]] static void stop_run() {
    g.stopped = true;
    for (;;) context_switch(g.current->context, g.scheduler);
}

static bool same_place(const EmuFault& a, const EmuFault& b) {
    return a.kind == b.kind && a.pc == b.pc && a.file == b.file && a.line == b.line &&
           a.buffer == b.buffer && a.write == b.write;
}

/// Records a fault of the current thread, or one more at a known position. A run with more positions
/// than there is room for ends.
static EmuFault* note(EmuFault fault) {
    EmuLaunch& l = *g.launch;
    for (uint64_t i = 0; i < l.fault_count; i++) {
        if (same_place(l.faults[i], fault)) {
            l.faults[i].count++;
            return nullptr;
        }
    }
    if (l.fault_count == l.fault_capacity) stop_run();
    fault.count = 1;
    fault.group = g.group_id;
    if (g.current) fault.thread = g.current->ids.thread_in_group;
    EmuFault* slot = &l.faults[l.fault_count++];
    *slot = fault;
    return slot;
}

static EmuFault fault_at(EmuFaultKind kind, const void* pc) {
    EmuFault f = {};
    f.kind = kind;
    f.buffer = -1;
    f.pc = library_offset(pc);
    return f;
}

static EmuFault fault_in(EmuFaultKind kind, const char* file, int line) {
    EmuFault f = {};
    f.kind = kind;
    f.buffer = -1;
    f.file = file;
    f.line = uint64_t(line);
    return f;
}
