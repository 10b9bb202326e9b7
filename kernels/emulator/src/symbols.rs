//! Threadgroup arrays and source lines of a compiled kernel, from binutils.

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::command::output;
use crate::host::is_host;

/// A variable in threadgroup memory.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) guard: bool,
}

/// Returns the variables in threadgroup memory, which are the static variables of the kernel in the
/// symbol table, and the offset of the first one in the library, from which the others count.
pub(crate) fn variables(path: &Path) -> Result<(u64, Vec<Variable>), Error> {
    let table = output(Command::new("nm").args(["-n", "-S", "-C", "--defined-only"]).arg(path))?;
    let hex = |s: &str| u64::from_str_radix(s, 16).ok();
    let mut variables = Vec::new();
    for line in table.lines() {
        // Address, size, type, name; symbols without a size have three fields.
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let [address, bytes, "b" | "d", name] = fields[..] else { continue };
        let (Some(offset), Some(bytes)) = (hex(address), hex(bytes)) else { continue };
        let Some((function, name)) = name.rsplit_once("::") else { continue };
        if function.contains("emu_body") {
            let guard = name.starts_with("emu_guard_");
            variables.push(Variable { name: name.to_string(), offset, bytes, guard });
        }
    }
    let first = variables.first().map_or(0, |v| v.offset);
    variables.iter_mut().for_each(|v| v.offset -= first);
    Ok((first, variables))
}

/// Returns the source positions of offsets in the library, of the innermost frame inside the
/// kernel.
pub(crate) fn places(library: &Path, offsets: &[u64]) -> Vec<String> {
    let mut command = Command::new("addr2line");
    command.arg("-a").arg("-i").arg("-e").arg(library);
    // An offset is a return address; the call is before it.
    command.args(offsets.iter().map(|o| format!("{:#x}", o.saturating_sub(1))));
    let text = output(&mut command).unwrap_or_default();
    let mut places: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("0x") {
            places.push(String::new());
        } else if let Some(place) = places.last_mut()
            && place.is_empty()
        {
            let line = line.split(" (").next().unwrap_or(line);
            let (file, number) = line.rsplit_once(':').unwrap_or((line, ""));
            let file = file_name(file);
            if !is_host(file) {
                *place = format!("{file}:{number}");
            }
        }
    }
    places.resize(offsets.len(), String::new());
    places
}

/// Returns the last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
