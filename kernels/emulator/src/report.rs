//! The faults and counts of a run.

use std::fmt;

/// Accesses to one buffer, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The input's or output's name.
    pub name: String,
    /// Each byte once for every threadgroup that reads it and did not write it before: the traffic
    /// with a cache that holds a threadgroup's data. The figure to use.
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
    /// executes: a measure of coalescing. 32 lanes that load neighboring floats touch one or two
    /// lines, lanes that load floats far apart touch 32.
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
    /// Faults, one per position in the source.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Returns the bytes read from device memory, counted as [`Traffic::read`].
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.buffers.iter().map(|b| b.read).sum()
    }

    /// Returns the bytes written to device memory, counted as [`Traffic::written`].
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.buffers.iter().map(|b| b.written).sum()
    }

    /// Returns the counts of the buffer of this name.
    #[must_use]
    pub fn buffer(&self, name: &str) -> Option<&Traffic> {
        self.buffers.iter().find(|b| b.name == name)
    }
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A load or store outside a device buffer.
    DeviceBounds,
    /// A load or store outside a threadgroup array.
    ThreadgroupBounds,
    /// A load or store at an address outside all objects.
    WildAddress,
    /// An index beyond an array whose length the compiler knows.
    IndexBounds,
    /// A vector load or store at an address that is not a multiple of its size.
    Misaligned,
    /// A store to an input.
    InputWritten,
    /// A load of threadgroup memory that no thread of the threadgroup has written.
    ThreadgroupUninitialized,
    /// A load of an output element that has not been written.
    OutputUninitialized,
    /// Two threads access the same threadgroup memory, one of them stores, and no barrier lies
    /// between.
    ThreadgroupRace,
    /// The same in an output. Threads of different threadgroups are never ordered.
    DeviceRace,
    /// Threads of a threadgroup wait at different barriers, or one has ended while others wait.
    BarrierDivergence,
    /// Lanes of a simdgroup wait at different calls, or one has ended while others wait.
    SimdDivergence,
    /// A division by zero, a shift by too many bits, or a signed overflow.
    Arithmetic,
    /// A shuffle from a lane that does not exist.
    SimdLane,
    /// Elements of an output that no thread wrote.
    Unwritten,
    /// More threadgroup memory than the 32 KiB that every device has.
    ThreadgroupMemory,
}

/// A fault at one position in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind.
    pub kind: FaultKind,
    /// `file.metal:line`, or empty where there is none (unwritten outputs).
    pub place: String,
    /// The position of the other thread, for races and divergence.
    pub other_place: Option<String>,
    /// Position in its threadgroup of the first thread with the fault.
    pub thread: [u32; 3],
    /// The position of the threadgroup in the grid.
    pub threadgroup: [u32; 3],
    /// The buffer or array concerned.
    pub object: Option<String>,
    /// Details: offsets, sizes, the other thread.
    pub detail: String,
    /// Number of occurrences.
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
