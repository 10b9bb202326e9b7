//! Descriptions of faults: names of arrays, positions in the source.

use std::ffi::{CStr, c_char};

use crate::abi::{KINDS, RawFault};
use crate::argument::Argument;
use crate::compile::Library;
use crate::report::{Fault, FaultKind};
use crate::symbols::{self, Variable};

/// Returns true for kinds after which the runtime stops.
pub(crate) fn ends_run(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::WildAddress
            | FaultKind::IndexBounds
            | FaultKind::Misaligned
            | FaultKind::Arithmetic
            | FaultKind::BarrierDivergence
            | FaultKind::SimdDivergence
    )
}

/// Returns a fault of the run as a whole.
pub(crate) fn general(kind: FaultKind, object: Option<String>, detail: String) -> Fault {
    Fault {
        kind,
        place: String::new(),
        other_place: None,
        thread: [0; 3],
        threadgroup: [0; 3],
        object,
        detail,
        count: 1,
    }
}

/// Adds names and source positions to the runtime's faults.
pub(crate) fn describe(
    library: &Library,
    arguments: &[Argument],
    faults: &[RawFault],
) -> Vec<Fault> {
    let offsets: Vec<u64> = faults.iter().flat_map(|f| [f.pc, f.other_pc]).collect();
    let places =
        if faults.is_empty() { Vec::new() } else { symbols::places(&library.path, &offsets) };
    faults
        .iter()
        .zip(places.chunks(2))
        .map(|(f, pcs)| {
            let kind = KINDS.get(f.kind as usize).copied().unwrap_or(FaultKind::WildAddress);
            let given = |file: *const c_char, line: u64, pc: u64, symbol: &String| {
                if file.is_null() {
                    return (pc != 0).then(|| symbol.clone());
                }
                // SAFETY: a string constant of the library, which stays loaded.
                let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
                Some(format!("{}:{line}", symbols::file_name(&file)))
            };
            // SAFETY: the runtime ends the text with a zero.
            let mut detail =
                unsafe { CStr::from_ptr(f.text.as_ptr()) }.to_string_lossy().into_owned();
            let mut object = None;
            if let Some(a) = usize::try_from(f.buffer).ok().and_then(|i| arguments.get(i)) {
                object = Some(a.name.clone());
                detail = format!("{} of {} bytes", access(f, f.offset), a.bytes.len());
            } else if matches!(
                kind,
                FaultKind::ThreadgroupBounds
                    | FaultKind::ThreadgroupRace
                    | FaultKind::ThreadgroupUninitialized
            ) && let Some(v) = array(&library.variables, f.offset as u64)
            {
                object = Some(v.name.clone());
                detail = format!("{} of {} bytes", access(f, f.offset - v.offset as i64), v.bytes);
            }
            let other_place = given(f.other_file, f.other_line, f.other_pc, &pcs[1]);
            if matches!(kind, FaultKind::ThreadgroupRace | FaultKind::DeviceRace) {
                let at = other_place.as_deref().unwrap_or("?");
                let (thread, group) = (f.other_thread.array(), f.other_group.array());
                detail += &format!(", against thread {thread:?} of threadgroup {group:?} at {at}");
            } else if let Some(at) = &other_place {
                detail += &format!(" at {at}");
            }
            Fault {
                kind,
                place: given(f.file, f.line, f.pc, &pcs[0]).unwrap_or_default(),
                other_place,
                thread: f.thread.array(),
                threadgroup: f.group.array(),
                object,
                detail,
                count: f.count,
            }
        })
        .collect()
}

fn access(f: &RawFault, offset: i64) -> String {
    let verb = if f.write == 1 { "write" } else { "read" };
    format!("{verb} of {} bytes at byte {offset}", f.size)
}

/// Returns the array that contains an offset in threadgroup memory, or else the one before it.
fn array(variables: &[Variable], offset: u64) -> Option<&Variable> {
    let before = variables.iter().rev().find(|v| !v.guard && v.offset <= offset);
    before.or_else(|| variables.iter().find(|v| !v.guard))
}
