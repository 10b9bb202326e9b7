// Runs a grid, one threadgroup after the other; each thread is a fiber. A fiber runs until it reaches a
// barrier or a simdgroup function; when all the fibers it waits for have arrived, they continue.
#include "hooks.h"

#include <errno.h>

static void wait_at(At at, const char* op, uint32_t flags, const char* file, int line) {
    Fiber& f = *g.current;
    f.at = at;
    f.op = op;
    f.flags = flags;
    f.file = file;
    f.line = line;
    context_switch(f.context, g.scheduler);
}

extern "C" {
void emu_threadgroup_barrier(uint32_t flags, const char* file, int line) {
    wait_at(At::ThreadgroupBarrier, "threadgroup_barrier", flags, file, line);
}
void emu_simdgroup_barrier(uint32_t flags, const char* file, int line) {
    wait_at(At::Simd, "simdgroup_barrier", flags, file, line);
}
const void* emu_exchange(const char* op, const void* mine, uint32_t bytes, const char* file, int line) {
    Fiber& f = *g.current;
    char* slots = g.simdgroups[f.ids.simdgroup].slots[f.turn];
    // Lanes that have not continued still read the other half.
    f.turn ^= 1;
    memcpy(slots + f.ids.lane * bytes, mine, bytes);
    wait_at(At::Simd, op, 0, file, line);
    return slots;
}
uint32_t emu_lane() { return g.current->ids.lane; }
uint32_t emu_lanes() { return g.simdgroups[g.current->ids.simdgroup].lanes; }
void emu_atomic(const void* address, uint32_t, uint32_t) { g.in_atomic = address != nullptr; }
void emu_bad_lane(const char* op, uint32_t lane, const char* file, int line) {
    EmuFault f = fault_in(EMU_SIMD_LANE, file, line);
    snprintf(f.text, sizeof f.text, "%s from lane %d", op, int(lane));
    note(f);
}
}

static void fiber_main() {
    static void* buffers[256];
    for (uint64_t i = 0; i < arena.count; i++) buffers[i] = arena.regions[i].base;
    emu_kernel(buffers, &g.current->ids);
    g.current->at = At::Ended;
    for (;;) context_switch(g.current->context, g.scheduler);
}

static const char* where(const Fiber& f) { return f.at == At::Ended ? "the end of the kernel" : f.op; }

/// Records that fiber a waits for fiber b, which will not come.
static void diverged(EmuFaultKind kind, Fiber& a, Fiber& b) {
    EmuFault f = fault_in(kind, a.file, a.line);
    snprintf(f.text, sizeof f.text, "%s waits, another thread is at %s", a.op, where(b));
    if (b.at != At::Ended) {
        f.other_file = b.file;
        f.other_line = uint64_t(b.line);
    }
    f.other_group = g.group_id;
    f.other_thread = b.ids.thread_in_group;
    g.current = &a;
    note(f);
    g.current = nullptr;
    g.stopped = true;
}

static bool same_site(const Fiber& a, const Fiber& b) {
    return a.at == b.at && a.op == b.op && a.line == b.line && a.flags == b.flags && strcmp(a.file, b.file) == 0;
}

static void run_fiber(Fiber& f) {
    f.at = At::Running;
    coalescing.turn++;
    g.current = &f;
    context_switch(g.scheduler, f.context);
    g.current = nullptr;
}

/// Runs a simdgroup until all its lanes have ended or wait for the threadgroup.
static void run_simdgroup(Simdgroup& s) {
    Fiber* lanes = &g.fibers[s.first];
    while (!g.stopped) {
        coalescing.round++;
        for (uint32_t i = 0; i < s.lanes && !g.stopped; i++)
            if (lanes[i].at == At::Running) run_fiber(lanes[i]);
        if (g.stopped) return;
        Fiber* waiting = nullptr;
        for (uint32_t i = 0; i < s.lanes && !waiting; i++)
            if (lanes[i].at == At::Simd) waiting = &lanes[i];
        if (!waiting) return;
        for (uint32_t i = 0; i < s.lanes; i++)
            if (!same_site(*waiting, lanes[i])) return diverged(EMU_SIMD_DIVERGENCE, *waiting, lanes[i]);
        g.launch->simd_ops++;
        if (waiting->flags & 1) s.epoch_device++;
        if (waiting->flags & 2) s.epoch_threadgroup++;
        for (uint32_t i = 0; i < s.lanes; i++) lanes[i].at = At::Running;
    }
}

static void run_group() {
    while (!g.stopped) {
        for (uint32_t s = 0; s * SIMD < g.threads && !g.stopped; s++) run_simdgroup(g.simdgroups[s]);
        if (g.stopped) return;
        Fiber* waiting = nullptr;
        for (uint32_t i = 0; i < g.threads && !waiting; i++)
            if (g.fibers[i].at == At::ThreadgroupBarrier) waiting = &g.fibers[i];
        if (!waiting) return;
        for (uint32_t i = 0; i < g.threads; i++)
            if (!same_site(*waiting, g.fibers[i])) return diverged(EMU_BARRIER_DIVERGENCE, *waiting, g.fibers[i]);
        g.launch->barriers++;
        if (waiting->flags & 1) g.epoch_device++;
        if (waiting->flags & 2) g.epoch_threadgroup++;
        for (uint32_t i = 0; i < g.threads; i++) g.fibers[i].at = At::Running;
    }
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/// Resets the threads of a threadgroup. At the edge of the grid a group is smaller.
static void start_group(EmuUint3 id, EmuUint3 groups) {
    EmuLaunch& l = *g.launch;
    EmuUint3 full = l.group;
    EmuUint3 size = {least(full.x, l.grid.x - id.x * full.x), least(full.y, l.grid.y - id.y * full.y),
                     least(full.z, l.grid.z - id.z * full.z)};
    g.group++;
    g.epoch_threadgroup++;
    g.epoch_device++;
    g.group_id = id;
    g.threads = size.x * size.y * size.z;
    g.in_atomic = false;
    memset(threadgroup.base, 0xff, threadgroup.bytes);
    uint32_t simdgroups = (g.threads + SIMD - 1) / SIMD;
    for (uint32_t s = 0; s < simdgroups; s++) {
        g.simdgroups[s].first = s * SIMD;
        g.simdgroups[s].lanes = least(SIMD, g.threads - s * SIMD);
    }
    for (uint32_t i = 0; i < g.threads; i++) {
        Fiber& f = g.fibers[i];
        EmuUint3 t = {i % size.x, i / size.x % size.y, i / size.x / size.y};
        EmuIds& ids = f.ids;
        ids.thread_in_group = t;
        ids.thread_in_grid = {id.x * full.x + t.x, id.y * full.y + t.y, id.z * full.z + t.z};
        ids.group_in_grid = id;
        ids.threads_per_grid = l.grid;
        ids.groups_per_grid = groups;
        ids.threads_per_group = size;
        ids.dispatch_threads_per_group = full;
        ids.index_in_group = i;
        ids.lane = i % SIMD;
        ids.simdgroup = i / SIMD;
        ids.simdgroups = simdgroups;
        ids.lanes = SIMD;
        f.at = At::Running;
        f.turn = 0;
        context_start(f.context, f.stack, fiber_main);
    }
}

extern "C" int emu_run(EmuLaunch* launch) {
    EmuLaunch& l = *launch;
    g.launch = launch;
    g.group = 0;
    g.epoch_threadgroup = g.epoch_device = 0;
    g.stopped = false;
    g.current = nullptr;
    uint64_t stack_bytes = uint64_t(l.group.x) * l.group.y * l.group.z * STACK_BYTES;
    char* stacks = static_cast<char*>(zeroed(stack_bytes));
    bool open = stacks && arena_open(l) && threadgroup_open(l);
    if (open) {
        for (uint64_t i = 0; i < stack_bytes / STACK_BYTES; i++) g.fibers[i].stack = stacks + i * STACK_BYTES;
        EmuUint3 n = {(l.grid.x + l.group.x - 1) / l.group.x, (l.grid.y + l.group.y - 1) / l.group.y,
                      (l.grid.z + l.group.z - 1) / l.group.z};
        for (uint32_t z = 0; z < n.z; z++)
            for (uint32_t y = 0; y < n.y; y++)
                for (uint32_t x = 0; x < n.x && !g.stopped; x++) {
                    start_group({x, y, z}, n);
                    l.groups++;
                    run_group();
                }
    }
    lines_close();
    threadgroup_close();
    arena_close(l);
    release(stacks, stack_bytes);
    return open ? 0 : ENOMEM;
}
