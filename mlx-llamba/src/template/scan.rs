//! Rewrites a template so that it pays fuel for the values it builds: see [`weights`](super::weights).
//!
//! `a + b.c` becomes `(a)|weighed + (b.c)|weighed`, `[a, b]` becomes `(([a, b])|built)`, and
//! `{% set n.x = a %}` becomes `{% set n.x = (a)|held(n) %}`. Also, `a % b` becomes `(a)|modulo(b)`,
//! as the engine's operator has no formats, and a `+` before an operand is left out. Lines keep
//! their numbers.

use std::borrow::Cow;

/// The most tokens in a tag. Each can be a level of the expression's tree, which the engine walks by
/// recursion.
const TOKENS: usize = 1500;
/// The most brackets in brackets. The engine's own limit takes more stack than a thread may have.
const BRACKETS: usize = 64;
/// The most branches of all conditions; each is a level of the tree too.
const BRANCHES: usize = 500;

/// The reason why a source is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be split into tokens; the engine reports that.
    Tokens,
    /// A tag or a condition is too long.
    Long,
}

/// Applies the filters to the operands of every `+`, to every literal and to every assigned value.
///
/// Calls of the macros called `variadic` become those of a filter.
pub(super) fn weigh(source: &str, variadic: &[String]) -> Result<String, Refusal> {
    let mut scan = Scan { source, variadic, at: 0, inserts: Vec::new(), branches: 0, long: false };
    match scan.all() {
        Some(()) => Ok(scan.rewritten()),
        None if scan.long => Err(Refusal::Long),
        None => Err(Refusal::Tokens),
    }
}

/// The length of the rest of a tag, its end included, if the tag is only `name`.
fn basic_tag(rest: &str, name: &str) -> Option<usize> {
    let blank = |c: char| c.is_ascii_whitespace();
    let after = rest.trim_start_matches(blank).strip_prefix(name)?.trim_start_matches(blank);
    let after = after.strip_prefix(['-', '+']).unwrap_or(after).strip_prefix("%}")?;
    Some(rest.len() - after.len())
}

/// The state of an expression between two brackets, or of a whole tag.
#[derive(Default)]
struct Frame {
    /// The start of the current operand and its end so far.
    operand: Option<(usize, usize)>,
    /// The start of the product in it that is left of a `%`.
    product: Option<usize>,
    /// The right operand of a `%` is not complete.
    modulo: bool,
    /// A `+` comes before it.
    added: bool,
    /// The start of the literal that these brackets make, if they make one.
    literal: Option<usize>,
    /// True for parentheses, in which only a comma makes a literal.
    round: bool,
    /// True if something is between the brackets, and if a comma is.
    filled: bool,
    comma: bool,
}

/// The part of a tag that is no expression: names before an `=` or an `in`.
#[derive(Default, PartialEq, Eq)]
enum Target {
    /// None.
    #[default]
    None,
    /// Up to `in`.
    For,
    /// Up to `=`; the end of what the field belongs to, if it is one, and the number of fields.
    Set { owner: usize, fields: usize },
    /// The whole tag: a macro's names and a call.
    Call,
}

struct Scan<'s> {
    source: &'s str,
    variadic: &'s [String],
    at: usize,
    /// Texts to insert, with their positions and the number of bytes that they replace.
    inserts: Vec<(usize, usize, Cow<'s, str>)>,
    branches: usize,
    /// True if it is too long.
    long: bool,
}

impl<'s> Scan<'s> {
    /// Scans the whole source.
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

    /// The source with the insertions.
    fn rewritten(mut self) -> String {
        self.inserts.sort_by_key(|&(at, ..)| at);
        let mut out = String::with_capacity(self.source.len() + 10 * self.inserts.len());
        let mut done = 0;
        for (at, replaced, text) in self.inserts {
            out.push_str(&self.source[done..at]);
            out.push_str(&text);
            done = at + replaced;
        }
        out + &self.source[done..]
    }

    /// Skips to the end of `{% endraw %}`.
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

    fn insert(&mut self, at: usize, text: impl Into<Cow<'s, str>>) {
        self.inserts.push((at, 0, text.into()));
    }

    /// Scans a tag including its `end`.
    fn tag(&mut self, end: &str) -> Option<()> {
        let bytes = self.source.as_bytes();
        let mut frames = vec![Frame::default()];
        // True if the last token ended an operand, and if a name belongs to something else.
        let (mut complete, mut access) = (false, false);
        let mut first = end == "%}";
        let (mut target, mut kept, mut last) = (Target::None, None, self.at);
        let mut assigned = self.at;
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
                if let Some((from, close)) = kept.filter(|(from, _)| *from < last) {
                    self.insert(from, "(");
                    self.insert(last, close);
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
                    // After an operand they are arguments or an index.
                    let literal = !(complete || round && target != Target::None);
                    let literal = literal.then_some(start);
                    frames.push(Frame { literal, round, ..Frame::default() });
                    if frames.len() > BRACKETS {
                        self.long = true;
                        return None;
                    }
                    complete = false;
                }
                b')' | b']' | b'}' => {
                    self.finish(&mut frames, false);
                    let closed = frames.pop()?;
                    frames.last()?;
                    let built = closed.filled && (!closed.round || closed.comma);
                    if let Some(from) = closed.literal.filter(|_| built) {
                        self.insert(from, "((");
                        self.insert(self.at, ")|built)");
                    }
                    extend(&mut frames, start, self.at);
                    complete = true;
                }
                b'+' if !complete => self.inserts.push((start, 1, "".into())),
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
                            if let Target::Set { owner, fields } = target {
                                let owner = self.source[assigned..owner.max(assigned)].trim();
                                kept = Some((
                                    self.at,
                                    match fields {
                                        0 => ")|kept".to_owned(),
                                        1 => format!(")|held({owner})"),
                                        _ => ")|held".to_owned(),
                                    },
                                ));
                                target = Target::None;
                            }
                        }
                        _ => {}
                    }
                }
                b'-' | b'.' | b'|' | b'~' | b'*' | b'/' | b'%' => {
                    if complete
                        && (matches!(byte, b'~' | b'/' | b'%') || rest.starts_with('*') && !double)
                    {
                        self.close_modulo(&mut frames);
                    }
                    if byte == b'%' && complete {
                        self.open_modulo(&mut frames, start);
                    }
                    extend(&mut frames, start, self.at);
                    if let (b'~', Some(frame)) = (byte, frames.last_mut()) {
                        frame.product = None;
                    }
                    (complete, access) = (false, matches!(byte, b'.' | b'|'));
                    if let (b'.', Target::Set { owner, fields }) = (byte, &mut target) {
                        (*owner, *fields) = (start, *fields + 1);
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
                            "set" => {
                                assigned = self.at;
                                Target::Set { owner: self.at, fields: 0 }
                            }
                            "call" | "macro" => Target::Call,
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
                    let called = self.source[self.at..].starts_with('(');
                    let declared = target == Target::Call;
                    if called && !declared && self.variadic.iter().any(|known| known == name) {
                        self.insert(self.at, "|applied");
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
            // An opening bracket belongs to the frame outside its own.
            let inside = frames.len().saturating_sub(1 + usize::from(opened));
            if let Some(frame) = frames.get_mut(inside) {
                frame.filled |= !closed || frame.operand.is_some();
            }
        }
        None
    }

    /// The innermost operand has ended; a `+` may follow.
    fn finish(&mut self, frames: &mut [Frame], plus: bool) {
        self.close_modulo(frames);
        let Some(frame) = frames.last_mut() else { return };
        let added = std::mem::replace(&mut frame.added, plus);
        frame.product = None;
        if let Some((start, end)) = frame.operand.take()
            && (added || plus)
        {
            self.insert(start, "(");
            self.insert(end, ")|weighed");
        }
    }

    /// The right operand of a `%`, if there is one, has ended.
    fn close_modulo(&mut self, frames: &mut [Frame]) {
        if let Some(frame) = frames.last_mut()
            && std::mem::take(&mut frame.modulo)
            && let Some((_, end)) = frame.operand
        {
            self.insert(end, ")");
        }
    }

    /// The product that has ended is the left operand of the `%` at `at`.
    fn open_modulo(&mut self, frames: &mut [Frame], at: usize) {
        if let Some(frame) = frames.last_mut()
            && let Some(product) = frame.product
        {
            frame.modulo = true;
            self.insert(product, "(");
            self.inserts.push((at, 1, ")|modulo(".into()));
        }
    }
}

/// A token that is part of the innermost operand.
fn extend(frames: &mut [Frame], start: usize, end: usize) {
    if let Some(frame) = frames.last_mut() {
        let from = frame.operand.map_or(start, |(from, _)| from);
        frame.operand = Some((from, end));
        frame.product.get_or_insert(start);
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
