// Coalescing of a simdgroup's loads and stores. Lanes run one after the other; between two collective
// calls, the nth time that a lane executes an instruction belongs to the nth time of the other lanes.
#pragma once
#include "state.h"

constexpr uintptr_t LINE = 128;

/// One execution of an instruction by a simdgroup: the lines it touched.
struct Execution {
    uint32_t round, count;
    uintptr_t lines[SIMD];
};

/// A load or store in the kernel's code.
struct Site {
    const void* pc;
    uint64_t turn;   // of the last lane that came here
    uint32_t times;  // executions in this turn
    uint32_t capacity;
    Execution* executions;
};

static struct {
    Site sites[4096];  // open hash by pc
    uint32_t round;    // rounds of a simdgroup's lanes so far
    uint64_t turn;     // fibers resumed so far
} coalescing;

static Site* site_of(const void* pc) {
    uint64_t slot = (uintptr_t(pc) * 0x9e3779b97f4a7c15u) >> 52;
    for (uint32_t i = 0; i < 4096; i++, slot = (slot + 1) & 4095) {
        Site& s = coalescing.sites[slot];
        if (!s.pc) s.pc = pc;
        if (s.pc == pc) return &s;
    }
    return nullptr;
}

/// Returns the number of lines of this access that the simdgroup's execution had not touched yet.
static uint32_t new_lines(uintptr_t address, uint32_t size, const void* pc) {
    Site* site = site_of(pc);
    if (!site) return 1;
    if (site->turn != coalescing.turn) {
        site->turn = coalescing.turn;
        site->times = 0;
    }
    uint32_t nth = site->times++;
    if (nth >= site->capacity) {
        uint32_t capacity = nth < 8 ? 16 : nth * 2;
        void* grown = realloc(site->executions, capacity * sizeof(Execution));
        if (!grown) return 1;
        site->executions = static_cast<Execution*>(grown);
        for (uint32_t i = site->capacity; i < capacity; i++) site->executions[i].round = 0;
        site->capacity = capacity;
    }
    Execution& e = site->executions[nth];
    if (e.round != coalescing.round) {
        e.round = coalescing.round;
        e.count = 0;
    }
    uint32_t fresh = 0;
    for (uintptr_t line = address / LINE; line <= (address + size - 1) / LINE; line++) {
        bool known = false;
        for (uint32_t i = e.count; i > 0 && !known; i--) known = e.lines[i - 1] == line;
        if (known) continue;
        fresh++;
        if (e.count < SIMD) e.lines[e.count++] = line;
    }
    return fresh;
}

static void lines_close() {
    for (Site& s : coalescing.sites) free(s.executions);
    memset(&coalescing, 0, sizeof coalescing);
}
