//! Lists that are joined with `+` are paid for.
//!
//! The engine charges no fuel for a list that is the sum of two: one that is doubled in a loop
//! would take all memory. So every operand of every `+` goes through a filter, which charges for
//! the items of lists and hands on everything else as it is: `a + b.c` becomes
//! `(a)|weighed + (b.c)|weighed`. Lines keep their numbers.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

/// The name of the filter.
const FILTER: &str = "weighed";
/// Items for one step of work.
const ITEMS_A_STEP: u64 = 4;

/// Adds the filter, and bounds the other ways to join lists.
pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.add_filter(FILTER, weighed);
    env.add_filter("sum", sum);
    env.remove_filter("chain"); // not one of jinja2's
}

fn weighed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(value);
    }
    if let Some(items) = value.len() {
        state.consume_fuel(items as u64 / ITEMS_A_STEP)?;
        return Ok(value);
    }
    let pay = |item| state.consume_fuel(1).map(|()| item);
    value.try_iter()?.map(pay).collect()
}

/// The filter `sum`, of numbers alone.
fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let first = start.clone().or_else(|| options.peek("start").ok());
    if first.is_some_and(|start| !start.is_number()) {
        return Err(Error::new(ErrorKind::InvalidOperation, "sum: start must be a number"));
    }
    filters::sum(state, values, attribute, start, options)
}

/// Puts the operands of every `+` through the filter. Nothing comes back if the source cannot be
/// cut into tokens.
pub(super) fn weigh(source: &str) -> Option<String> {
    let bytes = source.as_bytes();
    let mut scan = Scan { source, at: 0, inserts: Vec::new() };
    while let Some(found) = source[scan.at..].find('{') {
        let open = scan.at + found;
        let strip = usize::from(matches!(bytes.get(open + 2), Some(b'-' | b'+')));
        scan.at = open + 2 + strip;
        match bytes.get(open + 1) {
            Some(b'#') => scan.at += source[scan.at..].find("#}")? + 2,
            Some(b'{') => scan.tag("}}")?,
            Some(b'%') => match basic_tag(&source[scan.at..], "raw") {
                Some(length) => {
                    scan.at += length;
                    scan.raw()?;
                }
                None => scan.tag("%}")?,
            },
            _ => scan.at = open + 1,
        }
    }
    let mut inserts = scan.inserts;
    inserts.sort_by_key(|&(at, _)| at);
    let mut out = String::with_capacity(source.len() + 10 * inserts.len());
    let mut done = 0;
    for (at, text) in inserts {
        out.push_str(&source[done..at]);
        out.push_str(text);
        done = at;
    }
    Some(out + &source[done..])
}

/// The length of a tag's rest, its end included, if the tag is `name` and nothing else.
fn basic_tag(rest: &str, name: &str) -> Option<usize> {
    let blank = |c: char| c.is_ascii_whitespace();
    let after = rest.trim_start_matches(blank).strip_prefix(name)?.trim_start_matches(blank);
    let after = after.strip_prefix(['-', '+']).unwrap_or(after).strip_prefix("%}")?;
    Some(rest.len() - after.len())
}

/// What is known of an expression between two brackets, or of a whole tag.
#[derive(Default)]
struct Frame {
    /// Where the operand began that is being read, and where it ends so far.
    operand: Option<(usize, usize)>,
    /// There is a `+` before it.
    added: bool,
}

struct Scan<'s> {
    source: &'s str,
    at: usize,
    /// What is to be inserted, and where.
    inserts: Vec<(usize, &'static str)>,
}

impl Scan<'_> {
    /// Skips to behind `{% endraw %}`.
    fn raw(&mut self) -> Option<()> {
        loop {
            self.at += self.source[self.at..].find("{%")? + 2;
            let rest = &self.source[self.at..];
            let inner = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if let Some(length) = basic_tag(inner, "endraw") {
                self.at += rest.len() - inner.len() + length;
                return Some(());
            }
        }
    }

    /// Reads a tag up to behind its `end`.
    fn tag(&mut self, end: &str) -> Option<()> {
        let bytes = self.source.as_bytes();
        let mut frames = vec![Frame::default()];
        // Whether the last token ended an operand; whether a name is one of something else.
        let (mut complete, mut access) = (false, false);
        let mut first = end == "%}";
        loop {
            let rest = &self.source[self.at..];
            let start = self.at;
            let byte = *bytes.get(start)?;
            if byte.is_ascii_whitespace() {
                self.at += 1;
                continue;
            }
            let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if frames.len() == 1 && (bare.starts_with(end) || rest.starts_with(end)) {
                let bare = if rest.starts_with(end) { rest } else { bare };
                self.at += rest.len() - bare.len() + end.len();
                self.finish(&mut frames, false);
                return Some(());
            }
            let accessed = std::mem::take(&mut access);
            let named = std::mem::take(&mut first);
            let double = ["//", "**", "==", "!=", ">=", "<="].iter().any(|o| rest.starts_with(o));
            self.at += if double { 2 } else { 1 };
            match byte {
                b'(' | b'[' | b'{' => {
                    extend(&mut frames, start, self.at);
                    frames.push(Frame::default());
                    complete = false;
                }
                b')' | b']' | b'}' => {
                    self.finish(&mut frames, false);
                    frames.pop();
                    frames.last()?;
                    extend(&mut frames, start, self.at);
                    complete = true;
                }
                b'+' => {
                    self.finish(&mut frames, true);
                    complete = false;
                }
                b'-' if complete => {
                    self.finish(&mut frames, false);
                    complete = false;
                }
                b',' | b':' | b'=' | b'<' | b'>' | b'!' => {
                    self.finish(&mut frames, false);
                    complete = false;
                }
                b'-' | b'.' | b'|' | b'~' | b'*' | b'/' | b'%' => {
                    extend(&mut frames, start, self.at);
                    (complete, access) = (false, matches!(byte, b'.' | b'|'));
                }
                b'\'' | b'"' => {
                    self.at = start + string(rest)?;
                    extend(&mut frames, start, self.at);
                    complete = true;
                }
                b'0'..=b'9' => {
                    self.at = start + number(rest);
                    extend(&mut frames, start, self.at);
                    complete = true;
                }
                _ => {
                    let length =
                        rest.find(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_');
                    let name = &rest[..length.unwrap_or(rest.len())];
                    self.at = start + name.len().max(1);
                    if name.is_empty() {
                        return None;
                    }
                    // A name after an operand is a keyword, as is the first one of a block.
                    if accessed || !(complete || named || name == "not") {
                        extend(&mut frames, start, self.at);
                        complete = true;
                    } else {
                        self.finish(&mut frames, false);
                        complete = false;
                    }
                }
            }
        }
    }

    /// The innermost operand has ended; a `+` may follow.
    fn finish(&mut self, frames: &mut [Frame], plus: bool) {
        let Some(frame) = frames.last_mut() else { return };
        if let Some((start, end)) = frame.operand.take()
            && (frame.added || plus)
        {
            self.inserts.extend([(start, "("), (end, ")|weighed")]);
        }
        frame.added = plus;
    }
}

/// A token that is part of the innermost operand.
fn extend(frames: &mut [Frame], start: usize, end: usize) {
    if let Some(frame) = frames.last_mut() {
        let from = frame.operand.map_or(start, |(from, _)| from);
        frame.operand = Some((from, end));
    }
}

/// The length of a string, its quotes included.
fn string(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            byte if *byte == bytes[0] => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The length of a number, an exponent with its sign included.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0).to_ascii_lowercase();
    let run = |from: usize, part: fn(&u8) -> bool| {
        from + bytes[from.min(bytes.len())..].iter().take_while(|&byte| part(byte)).count()
    };
    let digits = |byte: &u8| byte.is_ascii_digit() || *byte == b'_';
    if at(0) == b'0' && matches!(at(1), b'b' | b'o' | b'x') {
        return run(
            2,
            if at(1) == b'x' { |b| b.is_ascii_hexdigit() || *b == b'_' } else { digits },
        );
    }
    let end = run(0, digits);
    if at(end) != b'e' {
        return end;
    }
    run(end + 1 + usize::from(matches!(at(end + 1), b'+' | b'-')), digits)
}
