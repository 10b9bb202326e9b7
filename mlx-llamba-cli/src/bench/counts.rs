//! Parsing of numbers of tokens, rows and repetitions.

/// The maximum number of tokens in a row, and the maximum depth: 1M.
const TOKENS: usize = 1 << 20;
/// The maximum number of rows in a batch.
const BATCH: usize = 4096;
/// The maximum number of repetitions.
const REPETITIONS: usize = 10_000;

/// Parses a number of tokens: `0`, `512`, `4k` or `1M`.
pub(super) fn count(text: &str) -> Result<usize, String> {
    parse(text)
        .filter(|&n| n <= TOKENS)
        .ok_or_else(|| "expected a number of tokens from 0 to 1M, such as 512 or 4k".into())
}

/// Parses a number of rows.
pub(super) fn batch(text: &str) -> Result<usize, String> {
    within(text, BATCH)
}

/// Parses a number of repetitions.
pub(super) fn repetitions(text: &str) -> Result<usize, String> {
    within(text, REPETITIONS)
}

/// Formats a number as [`count`] parses it.
pub(super) fn short(n: usize) -> String {
    match n {
        _ if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}M", n >> 20),
        _ if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{}k", n >> 10),
        _ => n.to_string(),
    }
}

fn within(text: &str, most: usize) -> Result<usize, String> {
    parse(text)
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| format!("expected a number from 1 to {most}"))
}

fn parse(text: &str) -> Option<usize> {
    let text = text.trim();
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    // Rust's own parser accepts a leading plus.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<usize>().ok().filter(|_| plain)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_type_them() {
        for (text, tokens) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("64K", 65_536),
            ("1M", TOKENS),
            ("1024k", TOKENS),
        ] {
            assert_eq!(count(text), Ok(tokens), "{text}");
        }
        for text in
            ["", "k", "-1", "+1", "1.5k", "1025k", "2M", "99999999999999999999", "4 k", "4kk"]
        {
            assert!(count(text).is_err(), "{text}");
        }
        assert_eq!((batch("1"), batch("4k")), (Ok(1), Ok(4096)));
        assert!(batch("0").is_err() && batch("4097").is_err());
        assert!(repetitions("0").is_err() && repetitions("10001").is_err());
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for n in [0, 1, 1000, 1024, 1025, 65_536, 1_000_000, 1 << 20, (1 << 20) - 1024] {
            assert_eq!(count(&short(n)), Ok(n));
        }
        assert_eq!([short(65_536), short(1 << 20), short(1000)], ["64k", "1M", "1000"]);
    }
}
