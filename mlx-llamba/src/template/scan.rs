//! Rewrites a template so that what it makes is weighed: see [`weights`](super::weights).
//!
//! `a + b.c` becomes `(a)|weighed + (b.c)|weighed`, `[a, b]` becomes `(([a, b])|built)`, and
//! `{% set n.x = a %}` becomes `{% set n.x = (a)|held %}`. Lines keep their numbers.

/// Tokens between the two ends of a tag. Each can be a level of the expression's tree, which the
/// engine walks by recursion.
const TOKENS: usize = 1500;
/// Branches of all conditions: each is a level of the tree too.
const BRANCHES: usize = 500;

/// Why a source is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be cut into tokens: the engine has its own words for that.
    Tokens,
    /// A tag, or a condition, is longer than any that a person writes.
    Long,
}

/// Puts the operands of every `+`, every literal and everything that is kept through their
/// filters.
pub(super) fn weigh(source: &str) -> Result<String, Refusal> {
    let mut scan = Scan { source, at: 0, inserts: Vec::new(), branches: 0, long: false };
    match scan.all() {
        Some(()) => Ok(scan.rewritten()),
        None if scan.long => Err(Refusal::Long),
        None => Err(Refusal::Tokens),
    }
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
    /// Where the literal begins that these brackets make, if they make one.
    literal: Option<usize>,
    /// They are round: a literal if there is a comma between them.
    round: bool,
    /// There is something, and a comma, between them.
    filled: bool,
    comma: bool,
}

/// Names before an `=` or an `in` are not expressions.
#[derive(Default, PartialEq, Eq)]
enum Target {
    /// This kind of tag has none.
    #[default]
    None,
    /// Up to `in`.
    For,
    /// Up to `=`; whether it is a field of something.
    Set { field: bool },
    /// The whole tag is a macro's names and a call.
    Call,
}

struct Scan<'s> {
    source: &'s str,
    at: usize,
    /// What is to be inserted, and where.
    inserts: Vec<(usize, &'static str)>,
    branches: usize,
    /// It was given up for its length.
    long: bool,
}

impl Scan<'_> {
    /// Reads the whole source.
    fn all(&mut self) -> Option<()> {
        let (source, bytes) = (self.source, self.source.as_bytes());
        while let Some(found) = source[self.at..].find('{') {
            let open = self.at + found;
            let strip = usize::from(matches!(bytes.get(open + 2), Some(b'-' | b'+')));
            self.at = open + 2 + strip;
            match bytes.get(open + 1) {
                Some(b'#') => self.at += source[self.at..].find("#}")? + 2,
                Some(b'{') => self.tag("}}")?,
                Some(b'%') => match basic_tag(&source[self.at..], "raw") {
                    Some(length) => {
                        self.at += length;
                        self.raw()?;
                    }
                    None => self.tag("%}")?,
                },
                _ => self.at = open + 1,
            }
        }
        Some(())
    }

    /// The source with all that is to be inserted.
    fn rewritten(mut self) -> String {
        self.inserts.sort_by_key(|&(at, _)| at);
        let mut out = String::with_capacity(self.source.len() + 10 * self.inserts.len());
        let mut done = 0;
        for (at, text) in self.inserts {
            out.push_str(&self.source[done..at]);
            out.push_str(text);
            done = at;
        }
        out + &self.source[done..]
    }

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
        let (mut target, mut kept, mut last) = (Target::None, None, self.at);
        for tokens in 0.. {
            if tokens > TOKENS {
                self.long = true;
                return None;
            }
            let rest = &self.source[self.at..];
            let start = self.at;
            let byte = *bytes.get(start)?;
            if byte.is_ascii_whitespace() {
                self.at += rest.len() - rest.trim_ascii_start().len();
                continue;
            }
            let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if frames.len() == 1 && (bare.starts_with(end) || rest.starts_with(end)) {
                let bare = if rest.starts_with(end) { rest } else { bare };
                self.at += rest.len() - bare.len() + end.len();
                self.finish(&mut frames, false);
                if let Some((from, close)) = kept.filter(|&(from, _)| from < last) {
                    self.inserts.extend([(from, "("), (last, close)]);
                }
                return Some(());
            }
            let accessed = std::mem::take(&mut access);
            let named = std::mem::take(&mut first);
            let double = ["//", "**", "==", "!=", ">=", "<="].iter().any(|o| rest.starts_with(o));
            self.at += if double { 2 } else { 1 };
            match byte {
                b'(' | b'[' | b'{' => {
                    extend(&mut frames, start, self.at);
                    let round = byte == b'(';
                    // Behind an operand they are arguments or an index.
                    let literal = !(complete || round && target != Target::None);
                    let literal = literal.then_some(start);
                    frames.push(Frame { literal, round, ..Frame::default() });
                    complete = false;
                }
                b')' | b']' | b'}' => {
                    self.finish(&mut frames, false);
                    let closed = frames.pop()?;
                    frames.last()?;
                    let built = closed.filled && (!closed.round || closed.comma);
                    if let Some(from) = closed.literal.filter(|_| built) {
                        self.inserts.extend([(from, "(("), (self.at, ")|built)")]);
                    }
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
                    match &mut frames[..] {
                        [.., frame] if byte == b',' => frame.comma = true,
                        [_] if byte == b'=' && !double => {
                            if let Target::Set { field } = target {
                                let close = if field { ")|held" } else { ")|kept" };
                                kept = Some((self.at, close));
                                target = Target::None;
                            }
                        }
                        _ => {}
                    }
                }
                b'-' | b'.' | b'|' | b'~' | b'*' | b'/' | b'%' => {
                    extend(&mut frames, start, self.at);
                    (complete, access) = (false, matches!(byte, b'.' | b'|'));
                    if let (b'.', Target::Set { field }) = (byte, &mut target) {
                        *field = true;
                    }
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
                    if named {
                        target = match name {
                            "for" => Target::For,
                            "set" => Target::Set { field: false },
                            "call" => Target::Call,
                            _ => Target::None,
                        };
                        self.branches += usize::from(matches!(name, "elif" | "else"));
                        if self.branches > BRANCHES {
                            self.long = true;
                            return None;
                        }
                    } else if name == "in" && target == Target::For {
                        target = Target::None;
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
            last = self.at;
            let closed = matches!(byte, b')' | b']' | b'}');
            let opened = matches!(byte, b'(' | b'[' | b'{');
            // An opening bracket is inside of the frame before its own.
            let inside = frames.len().saturating_sub(1 + usize::from(opened));
            if let Some(frame) = frames.get_mut(inside) {
                frame.filled |= !closed || frame.operand.is_some();
            }
        }
        None
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
