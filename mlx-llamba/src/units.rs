//! Numbers with their units, for people.

/// Formats a number of bytes in binary units: `512 bytes`, `8.1 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let size = |unit: u32| count as f64 / f64::from(1 << unit);
    match count {
        c if c >= 1 << 30 => format!("{:.2} GiB", size(30)),
        c if c >= 1 << 20 => format!("{:.1} MiB", size(20)),
        c if c >= 1 << 10 => format!("{:.1} KiB", size(10)),
        c => self::count(c, "byte"),
    }
}

/// Formats a number of things: `1 token`, `2 tokens`. `unit` is the word for one of them, whose
/// plural ends with an s.
#[must_use]
pub fn count(count: u64, unit: &str) -> String {
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_and_plurals_right() {
        let sizes = [0, 1, 1023, 1024, 8_500_000, 1 << 30].map(bytes);
        assert_eq!(sizes, ["0 bytes", "1 byte", "1023 bytes", "1.0 KiB", "8.1 MiB", "1.00 GiB"]);
        assert_eq!([0, 1, 2].map(|n| count(n, "token")), ["0 tokens", "1 token", "2 tokens"]);
    }
}
