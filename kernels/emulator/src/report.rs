//! What a run found and counted.

use std::fmt;

/// What was counted of one buffer, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The input's or output's name.
    pub name: String,
    /// Each byte once for every threadgroup that reads it and did not write it before: what a
    /// cache that holds a threadgroup's data leaves. The figure to use.
    pub read: u64,
    /// Each byte once for every threadgroup that writes it.
    pub written: u64,
    /// Each byte that any thread reads, once.
    pub read_once: u64,
    /// Each byte that any thread writes, once.
    pub written_once: u64,
    /// Every load of every thread, as if there were no cache.
    pub raw_read: u64,
    /// Every store of every thread.
    pub raw_written: u64,
    /// 128-byte lines (not bytes) that loads touch, once for every instruction that a simdgroup
    /// executes: how well they coalesce. 32 lanes that load neighbouring floats touch one or two,
    /// lanes that load floats far apart 32.
    pub lines_read: u64,
    /// The same for stores.
    pub lines_written: u64,
}

/// The counts of a run, and its faults.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Inputs, then outputs.
    pub buffers: Vec<Traffic>,
    /// Bytes of the kernel's threadgroup arrays.
    pub threadgroup_bytes: u64,
    /// Threadgroups run.
    pub threadgroups: u64,
    /// Threadgroup barriers passed, over all threadgroups.
    pub barriers: u64,
    /// Simdgroup functions and barriers, over all simdgroups.
    pub simd_ops: u64,
    /// What went wrong, a place in the source each.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Bytes read from device memory, counted as [`Traffic::read`].
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.buffers.iter().map(|b| b.read).sum()
    }

    /// Bytes written to device memory, counted as [`Traffic::written`].
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.buffers.iter().map(|b| b.written).sum()
    }

    /// The counts of the buffer of this name.
    #[must_use]
    pub fn buffer(&self, name: &str) -> Option<&Traffic> {
        self.buffers.iter().find(|b| b.name == name)
    }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A load or store beside a device buffer.
    DeviceBounds,
    /// A load or store beside a threadgroup array.
    ThreadgroupBounds,
    /// A load or store at an address that belongs to nothing.
    WildAddress,
    /// An index beyond an array whose length the compiler knows.
    IndexBounds,
    /// A vector load or store at an address that is no multiple of its size.
    Misaligned,
    /// A store to an input.
    InputWritten,
    /// A load of threadgroup memory that no thread of the threadgroup wrote.
    ThreadgroupUninitialised,
    /// A load of an output before anything was stored there.
    OutputUninitialised,
    /// Two threads at one place in threadgroup memory, one storing, and no barrier between.
    ThreadgroupRace,
    /// The same in an output; threads of different threadgroups are never ordered.
    DeviceRace,
    /// Threads of a threadgroup at different barriers, or one ended while others wait.
    BarrierDivergence,
    /// Lanes of a simdgroup at different calls, or one ended while others wait.
    SimdDivergence,
    /// A division by zero, a shift too far, or a signed overflow.
    Arithmetic,
    /// A shuffle from a lane that does not exist.
    SimdLane,
    /// Elements of an output that no thread wrote.
    Unwritten,
    /// More threadgroup memory than the 32 KiB every device has.
    ThreadgroupMemory,
}

/// A place in the source, and what happened there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// `file.metal:line`, or empty where there is none (unwritten outputs).
    pub place: String,
    /// The same of the other thread, for races and divergence.
    pub other_place: Option<String>,
    /// Position in its threadgroup of the first thread it happened to.
    pub thread: [u32; 3],
    /// That threadgroup's position in the grid.
    pub threadgroup: [u32; 3],
    /// The buffer or array concerned.
    pub object: Option<String>,
    /// What else there is to know: offsets, sizes, the other thread.
    pub detail: String,
    /// How often it happened.
    pub count: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if !self.place.is_empty() {
            write!(f, " at {}", self.place)?;
        }
        if let Some(object) = &self.object {
            write!(f, ", `{object}`")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if !self.place.is_empty() {
            write!(f, " (thread {:?} of threadgroup {:?})", self.thread, self.threadgroup)?;
        }
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        Ok(())
    }
}
