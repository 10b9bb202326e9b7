//! Lines of a limited width, as Python's `textwrap` makes them.

/// The characters at which lines are broken; others that Unicode calls blank are not among them.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// Breaks one line into lines of `width` characters; words that are longer are broken, too, with
/// `long`, and words with hyphens behind these with `hyphens`.
pub(super) fn wrap(line: &str, width: usize, long: bool, hyphens: bool) -> Vec<String> {
    let mut parts = parts(line, hyphens);
    parts.reverse();
    let mut lines: Vec<String> = Vec::new();
    while !parts.is_empty() {
        if !lines.is_empty() && parts.last().is_some_and(|part| part.trim().is_empty()) {
            parts.pop();
        }
        let (mut current, mut used) = (Vec::new(), 0);
        while let Some(part) = parts.pop() {
            let length = part.chars().count();
            if used + length <= width {
                used += length;
                current.push(part);
                continue;
            }
            if length > width && (long || current.is_empty()) {
                // A full line gets an empty part, as Python does it.
                let room = if long { width - used } else { length };
                current.push(part.chars().take(room).collect());
                parts.extend(
                    Some(part.chars().skip(room).collect()).filter(|p: &String| !p.is_empty()),
                );
                break;
            }
            parts.push(part);
            break;
        }
        if current.last().is_some_and(|part: &String| part.trim().is_empty()) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    lines
}

/// Words, the blanks between them, and parts of words up to a hyphen between letters.
fn parts(line: &str, hyphens: bool) -> Vec<String> {
    let chars: Vec<char> = line.chars().collect();
    let mut parts: Vec<String> = Vec::new();
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        let same = before.is_some_and(|b| BLANKS.contains(b) == BLANKS.contains(&c));
        let letters =
            |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphabetic());
        let hyphen =
            hyphens && before == Some(&'-') && letters(i.checked_sub(2)) && letters(Some(i));
        match parts.last_mut() {
            Some(part) if same && !hyphen => part.push(c),
            _ => parts.push(c.to_string()),
        }
    }
    parts
}
