//! Filters of jinja2 that the engine does not have, or that take their arguments otherwise.

use std::hash::{BuildHasher, RandomState};

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::filters as more;

use super::arguments::Arguments;
use super::print::{self, escaped};
use super::{invalid, strings, wrap};
use crate::template::weights;

type Given = Rest<ValueOrKwargs>;
/// A filter that is given its value and its arguments.
type Filter = fn(&mut State<'_, '_>, Value, Arguments) -> Result<Value, Error>;

/// Filters of the engine that take names only, with their parameters in jinja2.
const NAMED: [(&str, &[&str]); 6] = [
    ("sort", &["reverse", "case_sensitive", "attribute"]),
    ("unique", &["case_sensitive", "attribute"]),
    ("min", &["case_sensitive", "attribute"]),
    ("max", &["case_sensitive", "attribute"]),
    ("dictsort", &["case_sensitive", "by", "reverse"]),
    ("groupby", &["attribute", "default", "case_sensitive"]),
];
/// Filters of the engine that take positions only.
const POSITIONAL: [(&str, &[&str]); 7] = [
    ("batch", &["linecount", "fill_with"]),
    ("default", &["default_value", "boolean"]),
    ("d", &["default_value", "boolean"]),
    ("filesizeformat", &["binary"]),
    ("replace", &["old", "new", "count"]),
    ("slice", &["slices", "fill_with"]),
    ("trim", &["chars"]),
];
/// Filters that are made here.
const OWN: [(&str, &[&str], Filter); 20] = [
    ("int", &["default", "base"], int),
    ("float", &["default"], float),
    ("string", &[], |state, value, _| print::text(state, &value).map(Value::from)),
    ("e", &[], escape),
    ("escape", &[], escape),
    ("forceescape", &[], |state, value, _| {
        Ok(Value::from_safe_string(escaped(&print::text(state, &value)?)))
    }),
    ("attr", &["name"], attr),
    ("round", &["precision", "method"], |state, value, mut args| {
        let (precision, method) = (args.integer(0, 0)?, args.text(1, "common")?);
        let all = [value, Value::from(precision), Value::from(method.as_str())];
        let found = state.apply_filter("~round", &all)?;
        Ok(if method == "common" { found } else { Value::from(f64::try_from(found)?) })
    }),
    ("center", &["width"], |state, value, mut args| {
        let width = args.integer(0, 80)?;
        let text = Value::from(print::text(state, &value)?);
        strings::method(state, &text, "center", &[Value::from(width)])
    }),
    ("indent", &["width", "first", "blank"], indent),
    ("join", &["d", "attribute"], join),
    ("title", &[], |state, value, _| {
        let begins = |c: char| c.is_whitespace() || "-({[<".contains(c);
        Ok(Value::from(strings::title(&print::text(state, &value)?, true, begins)))
    }),
    ("truncate", &["length", "killwords", "end", "leeway"], truncate),
    ("wordwrap", &["width", "break_long_words", "wrapstring", "break_on_hyphens"], wordwrap),
    ("wordcount", &[], |state, value, _| {
        let text = print::text(state, &value)?;
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        Ok(Value::from(words.filter(|word| !word.is_empty()).count()))
    }),
    ("urlencode", &[], urlencode),
    ("xmlattr", &["autospace"], xmlattr),
    ("random", &[], |_, value, _| {
        let count = value.len().unwrap_or(0);
        let at = RandomState::new().hash_one(count) % (count.max(1) as u64);
        Ok(value.get_item(&Value::from(at)).unwrap_or_default())
    }),
    ("striptags", &[], |state, value, _| {
        let text = more::striptags(print::text(state, &value)?);
        Ok(Value::from(text.split_whitespace().collect::<Vec<_>>().join(" ")))
    }),
    ("pprint", &[], |state, value, _| print::repr(state, &value).map(Value::from)),
];

pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.add_filter("filesizeformat", more::filesizeformat);
    env.add_filter("~sort", filters::sort);
    env.add_filter("~unique", filters::unique);
    env.add_filter("~min", filters::min);
    env.add_filter("~max", filters::max);
    env.add_filter("~dictsort", filters::dictsort);
    env.add_filter("~groupby", filters::groupby);
    env.add_filter("~batch", filters::batch);
    env.add_filter("~default", filters::default);
    env.add_filter("~d", filters::default);
    env.add_filter("~filesizeformat", more::filesizeformat);
    env.add_filter("~round", filters::round);
    env.add_filter("~slice", filters::slice);
    env.add_filter("~trim", filters::trim);
    env.add_filter(
        "~replace",
        |state: &mut State, value: Value, old: Value, new: Value, count: Option<i64>| {
            let mut args = vec![old, new];
            args.extend(count.map(Value::from));
            let text = Value::from(print::text(state, &value)?);
            minijinja_contrib::pycompat::unknown_method_callback(state, &text, "replace", &args)
        },
    );
    for (name, parameters) in NAMED {
        env.add_filter(name, move |state: &mut State, given: Given| {
            let (value, mut args) = Arguments::of_filter(given, parameters)?;
            let named = parameters.iter().enumerate().filter_map(|(i, name)| {
                let value = args.take(i)?;
                Some((*name, value))
            });
            let named = Value::from(Kwargs::from_iter(named));
            state.apply_filter(&format!("~{name}"), &[value, named])
        });
    }
    for (name, parameters) in POSITIONAL {
        env.add_filter(name, move |state: &mut State, given: Given| {
            let (value, mut args) = Arguments::of_filter(given, parameters)?;
            let mut all = vec![value];
            all.extend((0..parameters.len()).map(|i| args.take(i).unwrap_or_default()));
            while all.len() > 1 && all.last().is_some_and(Value::is_undefined) {
                all.pop();
            }
            state.apply_filter(&format!("~{name}"), &all)
        });
    }
    for (name, parameters, filter) in OWN {
        env.add_filter(name, move |state: &mut State, given: Given| {
            let (value, args) = Arguments::of_filter(given, parameters)?;
            filter(state, value, args)
        });
    }
    env.add_test("callable", |value: Value| {
        value.kind() == ValueKind::Plain || weights::is_macro(&value)
    });
}

/// A whole number, or the default for what is none.
fn int(_: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let default = args.take(0).unwrap_or_else(|| Value::from(0));
    let base = args.integer(1, 10)?;
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let truncated = |number: f64| number.is_finite().then(|| Value::from(number.trunc() as i128));
    let found = match value.as_str() {
        Some(text) => match digits(text, base) {
            Some(number) => Some(Value::from(number)),
            None => number(text).and_then(truncated),
        },
        None if value.is_integer() => Some(value),
        None => match value.kind() {
            ValueKind::Bool => Some(Value::from(i32::from(value.is_true()))),
            ValueKind::Number => f64::try_from(value).ok().and_then(truncated),
            _ => None,
        },
    };
    Ok(found.unwrap_or(default))
}

/// The number that a text has in this base, as Python's `int` reads it.
fn digits(text: &str, base: i64) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let mut base = u32::try_from(base).ok()?;
    let mut digits = lower.as_str();
    for (prefix, own) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = lower.strip_prefix(prefix).filter(|_| base == 0 || base == own) {
            (base, digits) = (own, rest);
        }
    }
    let base = if base == 0 { 10 } else { base };
    let plain = digits.split('_').all(|part| !part.is_empty() && !part.starts_with(['+', '-']));
    let number = i128::from_str_radix(&digits.replace('_', ""), base.clamp(2, 36)).ok();
    number.filter(|_| plain).map(|number| if negative { -number } else { number })
}

/// The number that a text has, as Python's `float` reads it.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.split('_').all(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let text = if plain { text.replace('_', "") } else { text.to_owned() };
    text.parse().ok()
}

fn float(_: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let found = match value.as_str() {
        Some(text) => number(text),
        None => match value.kind() {
            ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
            ValueKind::Number => f64::try_from(value).ok(),
            _ => None,
        },
    };
    Ok(found.map(Value::from).or(args.take(0)).unwrap_or_else(|| Value::from(0.0)))
}

fn escape(state: &mut State, value: Value, _: Arguments) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    Ok(Value::from_safe_string(escaped(&print::text(state, &value)?)))
}

/// A field that is no item of a mapping.
fn attr(_: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let name = args.text(0, "")?;
    if weights::is_data(&value) {
        return Ok(Value::UNDEFINED);
    }
    value.get_attr(&name)
}

fn indent(state: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let text = print::text(state, &value)?;
    let by = match args.take(0) {
        Some(by) if by.as_str().is_some() => by.as_str().unwrap_or_default().to_owned(),
        by => {
            let width = by.map_or(Ok(4), i64::try_from)?;
            state.consume_fuel(width.unsigned_abs() / 16)?;
            " ".repeat(usize::try_from(width).unwrap_or(0))
        }
    };
    let (first, blank) = (args.flag(1, false), args.flag(2, false));
    let ended = format!("{text}\n");
    let mut out = String::with_capacity(text.len());
    for (i, line) in strings::lines(&ended).into_iter().enumerate() {
        state.consume_fuel(1 + by.len() as u64 / 64)?;
        out.push_str(if i > 0 { "\n" } else { "" });
        let indented = if i == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indented { &by } else { "" });
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn join(state: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let (separator, attribute) = (args.text(0, "")?, args.optional(1)?);
    let mut out = String::new();
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(path) => {
                path.split('.').try_fold(item, |item, name| match name.parse::<usize>() {
                    Ok(at) => item.get_item(&Value::from(at)),
                    Err(_) => item.get_attr(name),
                })?
            }
            None => item,
        };
        let text = print::text(state, &item)?;
        let separator = if i > 0 { separator.as_str() } else { "" };
        state.consume_fuel(1 + (separator.len() + text.len()) as u64 / 64)?;
        out.extend([separator, &text]);
    }
    Ok(Value::from(out))
}

fn truncate(state: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let text = print::text(state, &value)?;
    let (length, whole) = (args.width(0, 255)?, args.flag(1, false));
    let (end, leeway) = (args.text(2, "...")?, args.width(3, 5)?);
    let count = text.chars().count();
    if count <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| invalid("truncate: length is too small"))?;
    let kept: String = text.chars().take(kept).collect();
    let kept =
        if whole { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(kept, _)| kept) };
    Ok(Value::from(format!("{kept}{end}")))
}

fn wordwrap(state: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let text = print::text(state, &value)?;
    state.consume_fuel(text.len() as u64)?;
    let (width, long) = (args.width(0, 79)?.max(1), args.flag(1, true));
    let end = args.optional(2)?.unwrap_or_else(|| "\n".to_owned());
    let hyphens = args.flag(3, true);
    let lines = strings::lines(&text).into_iter();
    let lines: Vec<String> =
        lines.map(|line| wrap::wrap(line, width, long, hyphens).join(&end)).collect();
    state.consume_fuel((lines.len() * end.len()) as u64 / 64)?;
    Ok(Value::from(lines.join(&end)))
}

fn urlencode(state: &mut State, value: Value, _: Arguments) -> Result<Value, Error> {
    if value.as_str().is_some() || !matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
        return Ok(Value::from(quoted(&print::text(state, &value)?, true)));
    }
    let mut parts = Vec::new();
    for item in value.try_iter()? {
        let (key, value) = match value.kind() {
            ValueKind::Map => (item.clone(), value.get_item(&item)?),
            _ => (item.get_item(&Value::from(0))?, item.get_item(&Value::from(1))?),
        };
        let quote = |value: &Value| {
            print::text(state, value).map(|text| quoted(&text, false).replace("%20", "+"))
        };
        parts.push(format!("{}={}", quote(&key)?, quote(&value)?));
    }
    Ok(Value::from(parts.join("&")))
}

fn quoted(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte);
        if plain || slash && byte == b'/' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn xmlattr(state: &mut State, value: Value, mut args: Arguments) -> Result<Value, Error> {
    let mut parts = Vec::new();
    for key in value.try_iter()? {
        let value = value.get_item(&key)?;
        if !value.is_none() && !value.is_undefined() {
            let (key, value) = (print::text(state, &key)?, print::text(state, &value)?);
            parts.push(format!("{}=\"{}\"", escaped(&key), escaped(&value)));
        }
    }
    let space = if args.flag(0, true) && !parts.is_empty() { " " } else { "" };
    Ok(Value::from_safe_string(format!("{space}{}", parts.join(" "))))
}
