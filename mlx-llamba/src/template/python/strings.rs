//! Methods of texts, lists and mappings that the engine's own compatibility layer does not have.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;

use super::arguments::Arguments;
use super::invalid;

/// Calls a method that a value does not have.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.as_str() {
        // The engine charges fuel for a padded text only after making it.
        Some(text) if name == "format" && is_wide(text) => {
            return Err(invalid("format: a width is too large"));
        }
        Some(text) => of_text(state, text, name, args)?,
        None => of_data(value, name, args)?,
    };
    match own {
        Some(value) => Ok(value),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// True if a format has a number of more than four digits.
pub(super) fn is_wide(format: &str) -> bool {
    format.as_bytes().windows(5).any(|digits| digits.iter().all(u8::is_ascii_digit))
}

fn of_text(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let bind = |names: &[&str]| Arguments::bind(args.iter().cloned(), names);
    let made = match name {
        "rsplit" | "split" => {
            let mut args = bind(&["sep", "maxsplit"])?;
            let separator = args.optional(0)?;
            let most = usize::try_from(args.integer(1, -1)?).unwrap_or(usize::MAX);
            split(text, separator.as_deref(), most, name == "rsplit")?
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let mut args = bind(&["sub", "start", "end"])?;
            let wanted = args.text(0, "")?;
            let (start, part) = sliced(text, args.take(1), args.take(2))?;
            if name == "count" {
                let count = part.matches(wanted.as_str()).count();
                return Ok(Some(Value::from(count)));
            }
            let found =
                if name.starts_with('r') { part.rfind(&wanted) } else { part.find(&wanted) };
            match found.map(|at| start + part[..at].chars().count()) {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(invalid(format!("{name}: substring not found"))),
            }
        }
        "startswith" | "endswith" => {
            let mut args = bind(&["prefix", "start", "end"])?;
            let wanted = args.take(0).unwrap_or_default();
            let (_, part) = sliced(text, args.take(1), args.take(2))?;
            let is = |wanted: &str| match name {
                "startswith" => part.starts_with(wanted),
                _ => part.ends_with(wanted),
            };
            Value::from(match wanted.as_str() {
                Some(wanted) => is(wanted),
                None => wanted.try_iter()?.any(|item| item.as_str().is_some_and(is)),
            })
        }
        "removeprefix" => {
            let prefix = bind(&["prefix"])?.text(0, "")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = bind(&["suffix"])?.text(0, "")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let separator = bind(&["sep"])?.text(0, "")?;
            if separator.is_empty() {
                return Err(invalid(format!("{name}: empty separator")));
            }
            let parts = match name {
                "partition" => match text.split_once(&separator) {
                    Some((before, after)) => [before, &separator, after],
                    None => [text, "", ""],
                },
                _ => match text.rsplit_once(&separator) {
                    Some((before, after)) => [before, &separator, after],
                    None => ["", "", text],
                },
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "zfill" => {
            let width = bind(&["width"])?.width(0, 0)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            let zeros = padding(state, text, width)?;
            Value::from([sign, &"0".repeat(zeros), digits].concat())
        }
        "center" | "ljust" | "rjust" => {
            let mut args = bind(&["width", "fillchar"])?;
            let (width, fill) = (args.width(0, 0)?, args.text(1, " ")?);
            let all = padding(state, text, width)?;
            let left = match name {
                "center" => all / 2 + (all & width & 1),
                "rjust" => all,
                _ => 0,
            };
            Value::from([&fill.repeat(left), text, &fill.repeat(all - left)].concat())
        }
        "expandtabs" => {
            let size = bind(&["tabsize"])?.width(0, 8)?;
            Value::from(expanded(state, text, size)?)
        }
        "swapcase" => Value::from(
            text.chars()
                .map(|c| match c.is_uppercase() {
                    true => c.to_lowercase().to_string(),
                    false => c.to_uppercase().to_string(),
                })
                .collect::<String>(),
        ),
        "casefold" => Value::from(text.replace(['ß', 'ẞ'], "ss").to_lowercase()),
        "title" => Value::from(title(text, false, |before| !is_cased(before))),
        "istitle" => Value::from(
            text.chars().any(is_cased) && text == title(text, false, |before| !is_cased(before)),
        ),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "isprintable" => {
            state.consume_fuel(text.len() as u64 / 16)?;
            Value::from(text.chars().all(super::print::is_printable))
        }
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            Value::from(first && text.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "translate" => {
            let table = bind(&["table"])?.take(0).unwrap_or_default();
            let mut out = String::new();
            for c in text.chars() {
                let found = table.get_item(&Value::from(u32::from(c))).unwrap_or_default();
                state.consume_fuel(1 + found.as_str().map_or(0, str::len) as u64 / 64)?;
                match found.as_str() {
                    Some(text) => out.push_str(text),
                    None if found.is_none() => {}
                    None => {
                        let code = u32::try_from(found).ok();
                        out.push(code.and_then(char::from_u32).unwrap_or(c));
                    }
                }
            }
            Value::from(out)
        }
        _ => return Ok(None),
    };
    Ok(Some(made))
}

fn of_data(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map, "copy") if args.is_empty() => {
            Ok(Some(value.clone()))
        }
        (ValueKind::Seq | ValueKind::Iterable, "index") => {
            let wanted = Arguments::bind(args.iter().cloned(), &["value"])?.take(0);
            let at = value.try_iter()?.position(|item| Some(item) == wanted);
            at.map(|at| Some(Value::from(at))).ok_or_else(|| invalid("index: not in the list"))
        }
        _ => Ok(None),
    }
}

/// The texts between separators, or between blanks.
fn split(text: &str, separator: Option<&str>, most: usize, right: bool) -> Result<Value, Error> {
    let limit = most.saturating_add(1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(invalid("split: empty separator")),
        Some(separator) if right => text.rsplitn(limit, separator).collect(),
        Some(separator) => text.splitn(limit, separator).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = if right { text.trim_end() } else { text.trim_start() };
            while !rest.is_empty() {
                let cut = match right {
                    _ if parts.len() == most => None,
                    true => rest
                        .rsplit_once(char::is_whitespace)
                        .map(|(rest, part)| (part, rest.trim_end())),
                    false => rest
                        .split_once(char::is_whitespace)
                        .map(|(part, rest)| (part, rest.trim_start())),
                };
                let (part, after) = cut.unwrap_or((rest, ""));
                parts.push(part);
                rest = after;
            }
            parts
        }
    };
    if right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The part of a text between two positions, counted in characters, and the first of them.
fn sliced(text: &str, start: Option<Value>, end: Option<Value>) -> Result<(usize, &str), Error> {
    if start.is_none() && end.is_none() {
        return Ok((0, text));
    }
    let length = text.chars().count();
    let place = |value: Option<Value>, default: usize| match value.filter(|v| !v.is_none()) {
        None => Ok(default),
        Some(value) => i64::try_from(value).map(|at| match usize::try_from(at) {
            Ok(at) => at.min(length),
            Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(length)),
        }),
    };
    let (start, end) = (place(start, 0)?, place(end, length)?);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
    Ok((start, &text[byte(start)..byte(end.max(start))]))
}

/// The number of characters that a text of a width needs in addition, paid for.
fn padding(state: &State<'_, '_>, text: &str, width: usize) -> Result<usize, Error> {
    let missing = width.saturating_sub(text.chars().count());
    state.consume_fuel(missing as u64 / 16)?;
    Ok(missing)
}

fn expanded(state: &State<'_, '_>, text: &str, size: usize) -> Result<String, Error> {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let blanks = if size > 0 { size - column % size } else { 0 };
                state.consume_fuel(blanks as u64 / 16)?;
                out.push_str(&" ".repeat(blanks));
                column += blanks;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// A text in which the letters after characters that `begins` accepts are large and others small. A
/// letter that becomes several is large as a whole with `whole`.
pub(super) fn title(text: &str, whole: bool, begins: impl Fn(char) -> bool) -> String {
    let mut before = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match begins(before) {
            true => {
                let mut large = c.to_uppercase();
                out.extend(large.next());
                match whole {
                    true => out.extend(large),
                    false => out.extend(large.flat_map(char::to_lowercase)),
                }
            }
            false => out.extend(c.to_lowercase()),
        }
        before = c;
    }
    out
}

/// The lines of a text as `splitlines` finds them.
pub(super) fn lines(text: &str) -> Vec<&str> {
    let ends = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ends) {
        lines.push(&rest[..at]);
        let after = rest[at..].strip_prefix("\r\n").unwrap_or_else(|| {
            let mut chars = rest[at..].chars();
            chars.next();
            chars.as_str()
        });
        rest = after;
    }
    lines.extend(Some(rest).filter(|rest| !rest.is_empty()));
    lines
}
