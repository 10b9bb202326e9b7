//! The machine's memory, as its system reports it.

use std::process::Command;

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// The memory that a program can get without swapping.
    pub(crate) available: u64,
}

/// Returns the machine's memory, or `None` where the system does not report it.
pub(crate) fn of_machine() -> Option<Memory> {
    if cfg!(target_os = "macos") {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            String::from_utf8(output.stdout).ok()
        };
        let total = said("/usr/sbin/sysctl", &["-n", "hw.memsize"])?;
        return of_vm_stat(&total, &said("/usr/bin/vm_stat", &[])?);
    }
    let memory = of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    // A container may have less than its machine. These are the names of cgroups v2, then v1.
    let limits = [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ];
    let number = |name: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    let limit = limits.into_iter().find_map(|(limit, used)| Some((number(limit)?, number(used)?)));
    Some(limit.map_or(memory, |(limit, used)| memory.within(limit, used)))
}

impl Memory {
    /// Applies a limit, of which `used` bytes are in use.
    pub(crate) fn within(self, limit: u64, used: u64) -> Self {
        if limit >= self.total {
            return self;
        }
        Self { total: limit, available: self.available.min(limit.saturating_sub(used)) }
    }
}

/// Parses Linux's `/proc/meminfo`: lines such as `MemTotal: 24657012 kB`.
fn of_meminfo(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

/// Parses the output of macOS's `vm_stat`: the page size in its first line, then lines such as
/// `Pages free: 12345.`
fn of_vm_stat(total: &str, text: &str) -> Option<Memory> {
    let page: u64 = text.split_once("page size of ")?.1.split(' ').next()?.parse().ok()?;
    let pages = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches('.').parse::<u64>().ok()
    };
    let names = ["Pages free", "Pages inactive", "Pages speculative", "Pages purgeable"];
    let pages = names.into_iter().map(pages).sum::<Option<u64>>()?;
    Some(Memory { total: total.trim().parse().ok()?, available: pages.checked_mul(page)? })
}

#[cfg(test)]
mod tests {
    use super::{Memory, of_meminfo, of_vm_stat};

    #[test]
    fn systems_are_understood() {
        let text = "MemTotal:       24657012 kB\nMemFree:        5 kB\nMemAvailable:   7 kB\n";
        let memory = Memory { total: 24_657_012 * 1024, available: 7 * 1024 };
        assert_eq!(of_meminfo(text), Some(memory));
        assert_eq!(of_meminfo("MemTotal: 1 kB\n"), None);
        let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n\
                    Pages free:                               3.\n\
                    Pages active:                           100.\n\
                    Pages inactive:                          20.\n\
                    Pages speculative:                      400.\n\
                    Pages purgeable:                       5000.\n";
        let found = of_vm_stat("17179869184\n", text);
        assert_eq!(found, Some(Memory { total: 17_179_869_184, available: 5423 * 16384 }));
        assert_eq!(of_vm_stat("1", "nothing"), None);
    }

    #[test]
    fn a_limit_counts_where_it_is_lower() {
        let memory = Memory { total: 100, available: 60 };
        assert_eq!(memory.within(u64::MAX, 5), memory);
        assert_eq!(memory.within(80, 10), Memory { total: 80, available: 60 });
        assert_eq!(memory.within(80, 70), Memory { total: 80, available: 10 });
        assert_eq!(memory.within(80, 90), Memory { total: 80, available: 0 });
    }
}
