// Checks every load and store of a kernel before it happens: bounds, initialization, races, counts.
#pragma once
#include "lines.h"
#include "race.h"

constexpr uintptr_t CHUNK = 1 << 20;  // buffers begin at multiples, with at least one chunk between

struct Region {
    char* base;
    EmuBuffer* buffer;
    uint32_t* read_by;     // per element: the last group that read it
    uint32_t* written_by;  // per element: the last group that wrote it
    Shadow* shadow;        // per element, of outputs
};

static struct {
    char* base;
    uint64_t bytes;
    uint8_t* owner;  // of each chunk: the region's index
    Region* regions;
    uint64_t count;
} arena;

static struct {
    char* base;
    uint64_t bytes;
    uint32_t* written_by;  // per byte: the group that wrote it
    Shadow* shadow;        // per byte
    uint16_t* variable;    // per byte: index of the variable, or NO_VARIABLE
} threadgroup;
constexpr uint16_t NO_VARIABLE = 0xffff;

static void* zeroed(uint64_t bytes) {
    void* p = mmap(nullptr, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}
static void release(void* p, uint64_t bytes) {
    if (p) munmap(p, bytes ? bytes : 1);
}

static void set_other(EmuFault& f, const Access& a) {
    uint32_t index = a.thread & (MAX_THREADS - 1), group = (a.thread >> 10) - 1;
    EmuUint3 d = g.fibers[0].ids.dispatch_threads_per_group, n = g.fibers[0].ids.groups_per_grid;
    f.other_pc = a.pc;
    f.other_thread = {index % d.x, index / d.x % d.y, index / d.x / d.y};
    f.other_group = {group % n.x, group / n.x % n.y, group / n.x / n.y};
}

static Access access_now(bool device_memory, const void* pc) {
    Fiber& f = *g.current;
    Simdgroup& s = g.simdgroups[f.ids.simdgroup];
    return {(g.group << 10) + f.ids.index_in_group,
            device_memory ? g.epoch_device : g.epoch_threadgroup,
            device_memory ? s.epoch_device : s.epoch_threadgroup, uint32_t(library_offset(pc))};
}

static void threadgroup_access(uintptr_t offset, uint32_t size, bool write, const void* pc) {
    auto fault = [&](EmuFaultKind kind) {
        EmuFault f = fault_at(kind, pc);
        f.offset = int64_t(offset);
        f.size = size;
        f.write = write;
        return f;
    };
    uint16_t v = threadgroup.variable[offset];
    bool inside = v != NO_VARIABLE && !g.launch->variables[v].guard && offset + size <= threadgroup.bytes &&
                  threadgroup.variable[offset + size - 1] == v;
    if (!inside) {
        note(fault(EMU_THREADGROUP_BOUNDS));
        if (offset + size > threadgroup.bytes) stop_run();
        return;
    }
    Access now = access_now(false, pc);
    bool bad = false, raced = false;
    for (uint32_t i = 0; i < size; i++) {
        uintptr_t at = offset + i;
        if (write) threadgroup.written_by[at] = g.group;
        else if (threadgroup.written_by[at] != g.group) bad = true;
        Shadow& s = threadgroup.shadow[at];
        const Access* other = race(s, now, write, false);
        if (other && !raced) {
            raced = true;
            EmuFault f = fault(EMU_THREADGROUP_RACE);
            set_other(f, *other);
            note(f);
        }
        remember(s, now, write);
    }
    if (bad) note(fault(EMU_THREADGROUP_UNINITIALISED));
}

static void device_access(uintptr_t address, uint32_t size, bool write, const void* pc) {
    uint8_t owner = arena.owner[(address - uintptr_t(arena.base)) / CHUNK];
    Region& r = arena.regions[owner];
    EmuBuffer& b = *r.buffer;
    int64_t offset = int64_t(address - uintptr_t(r.base));
    auto fault = [&](EmuFaultKind kind) {
        EmuFault f = fault_at(kind, pc);
        f.buffer = owner;
        f.offset = offset;
        f.size = size;
        f.write = write;
        return f;
    };
    if (offset < 0 || uint64_t(offset) + size > b.bytes) {
        note(fault(EMU_DEVICE_BOUNDS));
        return;
    }
    if (write && !b.output) note(fault(EMU_INPUT_WRITTEN));
    (write ? b.raw_written : b.raw_read) += size;
    (write ? b.lines_written : b.lines_read) += new_lines(address, size, pc);

    Access now = access_now(true, pc);
    uint64_t first = uint64_t(offset) / b.element, last = (uint64_t(offset) + size - 1) / b.element;
    bool bad = false, raced = false;
    for (uint64_t e = first; e <= last; e++) {
        uint32_t& mark = (write ? r.written_by : r.read_by)[e];
        if (mark != g.group) {
            // Reading data that this threadgroup wrote is not traffic.
            if (write || r.written_by[e] != g.group) {
                (write ? b.group_written : b.group_read) += b.element;
                if (mark == 0) (write ? b.once_written : b.once_read) += b.element;
            }
            mark = g.group;
        }
        if (!b.output) continue;
        if (!write && !b.filled && r.written_by[e] == 0) bad = true;
        Shadow& s = r.shadow[e];
        const Access* other = race(s, now, write, true);
        if (other && !raced) {
            raced = true;
            EmuFault f = fault(EMU_DEVICE_RACE);
            set_other(f, *other);
            note(f);
        }
        remember(s, now, write);
    }
    if (bad) note(fault(EMU_OUTPUT_UNINITIALISED));
}

static void access(const void* p, uint32_t size, bool write, const void* pc) {
    if (!g.current || size == 0) return;
    uintptr_t a = uintptr_t(p);
    if (a - uintptr_t(g.current->stack) < STACK_BYTES) return;
    uintptr_t offset = a - uintptr_t(threadgroup.base);
    if (offset < threadgroup.bytes) return threadgroup_access(offset, size, write, pc);
    if (a - uintptr_t(arena.base) < arena.bytes) return device_access(a, size, write, pc);
    if (a - uintptr_t(&g) < sizeof(g)) return;  // exchanged values
    if (!write && a - uintptr_t(__ehdr_start) < uintptr_t(_end - __ehdr_start)) return;  // constants
    EmuFault f = fault_at(EMU_WILD_ADDRESS, pc);
    f.size = size;
    f.write = write;
    snprintf(f.text, sizeof f.text, "%#lx", (unsigned long)a);
    note(f);
    stop_run();
}

/// A chunk before, the buffer, and at least a chunk after.
static uint64_t chunks_of(const EmuBuffer& b) { return (uint64_t(b.offset) * b.element + b.bytes) / CHUNK + 3; }

/// Places the buffers in memory and copies the inputs in.
static bool arena_open(EmuLaunch& l) {
    arena.count = l.buffer_count;
    arena.regions = static_cast<Region*>(calloc(l.buffer_count + 1, sizeof(Region)));
    uint64_t chunks = 1;
    for (uint64_t i = 0; i < l.buffer_count; i++) chunks += chunks_of(l.buffers[i]);
    arena.bytes = chunks * CHUNK;
    arena.base = static_cast<char*>(zeroed(arena.bytes));
    arena.owner = static_cast<uint8_t*>(calloc(chunks, 1));
    if (!arena.base || !arena.owner || !arena.regions || l.buffer_count > 255) return false;
    uint64_t chunk = 0;
    for (uint64_t i = 0; i < l.buffer_count; i++) {
        EmuBuffer& b = l.buffers[i];
        Region& r = arena.regions[i];
        uint64_t elements = b.bytes / b.element;
        r.buffer = &b;
        r.base = arena.base + (chunk + 1) * CHUNK + uint64_t(b.offset) * b.element;
        for (uint64_t last = chunk + chunks_of(b); chunk < last; chunk++) arena.owner[chunk] = uint8_t(i);
        r.read_by = static_cast<uint32_t*>(zeroed(elements * 4));
        r.written_by = static_cast<uint32_t*>(zeroed(elements * 4));
        if (b.output) r.shadow = static_cast<Shadow*>(zeroed(elements * sizeof(Shadow)));
        if (!r.read_by || !r.written_by || (b.output && !r.shadow)) return false;
        if (!b.output || b.filled) memcpy(r.base, b.data, b.bytes);
        else memset(r.base, 0xff, b.bytes);  // NaN if a kernel reads or omits it
    }
    return true;
}

/// Copies the outputs out, finds elements that no thread wrote, and frees the memory.
static void arena_close(EmuLaunch& l) {
    for (uint64_t i = 0; arena.regions && i < l.buffer_count; i++) {
        EmuBuffer& b = l.buffers[i];
        Region& r = arena.regions[i];
        uint64_t elements = b.bytes / b.element;
        if (b.output && r.shadow) {
            memcpy(b.data, r.base, b.bytes);
            for (uint64_t e = 0; e < elements && !b.filled; e++) {
                if (r.written_by[e]) continue;
                if (b.unwritten++ == 0) b.first_unwritten = e;
            }
        }
        release(r.read_by, elements * 4);
        release(r.written_by, elements * 4);
        release(r.shadow, elements * sizeof(Shadow));
    }
    release(arena.base, arena.bytes);
    free(arena.owner);
    free(arena.regions);
    arena = {};
}

static bool threadgroup_open(EmuLaunch& l) {
    threadgroup.base = __ehdr_start + l.threadgroup_offset;
    threadgroup.bytes = l.threadgroup_bytes;
    threadgroup.written_by = static_cast<uint32_t*>(zeroed(threadgroup.bytes * 4));
    threadgroup.shadow = static_cast<Shadow*>(zeroed(threadgroup.bytes * sizeof(Shadow)));
    threadgroup.variable = static_cast<uint16_t*>(zeroed(threadgroup.bytes * 2));
    if (!threadgroup.written_by || !threadgroup.shadow || !threadgroup.variable) return false;
    for (uint64_t i = 0; i < threadgroup.bytes; i++) threadgroup.variable[i] = NO_VARIABLE;
    for (uint64_t v = 0; v < l.variable_count; v++)
        for (uint64_t i = 0; i < l.variables[v].bytes; i++) threadgroup.variable[l.variables[v].offset + i] = uint16_t(v);
    return true;
}

static void threadgroup_close() {
    release(threadgroup.written_by, threadgroup.bytes * 4);
    release(threadgroup.shadow, threadgroup.bytes * sizeof(Shadow));
    release(threadgroup.variable, threadgroup.bytes * 2);
    threadgroup = {};
}
