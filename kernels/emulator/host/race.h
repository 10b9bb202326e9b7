// Races, found by barriers: two accesses are ordered if one thread makes both, or if a barrier for that
// memory lies between them.
#pragma once
#include "state.h"

/// One past access, enough to tell whether a later one is ordered after it.
struct Access {
    uint32_t thread;  // serial of the group times 1024, plus the index in it; 0: none
    uint32_t epoch, simd_epoch;
    uint32_t pc;
};

/// The last write, and the last reads of up to two simdgroups.
struct Shadow {
    Access write, read, other_read;
    uint32_t atomic_write;  // 1: the write was atomic
    uint32_t many;          // 1: several lanes of one simdgroup share `read`
};

static bool same_simdgroup(const Access& a, const Access& b) { return a.thread / SIMD == b.thread / SIMD; }

/// Returns true if nothing orders the past access before one of the current thread.
static bool conflicts(const Access& a, const Access& now, bool across_groups) {
    if (a.thread == 0 || a.thread == now.thread) return false;
    if ((a.thread ^ now.thread) >> 10) return across_groups;
    if (a.epoch != now.epoch) return false;
    return !same_simdgroup(a, now) || a.simd_epoch == now.simd_epoch;
}

/// Records the access in the shadow; returns the past access that it races with, or null.
static const Access* race(Shadow& s, const Access& now, bool write, bool across_groups) {
    const Access* found = nullptr;
    bool both_atomic = g.in_atomic && s.atomic_write;
    if (!both_atomic && conflicts(s.write, now, across_groups)) found = &s.write;
    if (write) {
        if (!found && !both_atomic) {
            bool shared = s.many && same_simdgroup(s.read, now) && s.read.epoch == now.epoch &&
                          s.read.simd_epoch == now.simd_epoch;
            if (conflicts(s.read, now, across_groups) || shared) found = &s.read;
            else if (conflicts(s.other_read, now, across_groups)) found = &s.other_read;
        }
    } else if (!g.in_atomic) {
        if (s.read.thread == 0 || same_simdgroup(s.read, now)) {
            bool together = s.read.epoch == now.epoch && s.read.simd_epoch == now.simd_epoch;
            s.many = together && (s.many || (s.read.thread != 0 && s.read.thread != now.thread));
        } else {
            s.other_read = s.read;
            s.many = 0;
        }
    }
    return found;
}

static void remember(Shadow& s, const Access& now, bool write) {
    if (write) {
        s.write = now;
        s.atomic_write = g.in_atomic;
    } else if (!g.in_atomic) {
        s.read = now;
    }
}
