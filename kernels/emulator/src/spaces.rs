//! The keyword `threadgroup`, which C++ lacks.

use std::fmt::Write;

/// Replaces the keyword `threadgroup` of a variable by EMU_THREADGROUP, with a guard after the
/// declaration, and that of a pointer or reference by EMU_LOCAL. Keeps the line numbers.
pub(crate) fn address_spaces(source: &str, guards: &mut usize) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len() + 64);
    let mut at = 0; // the text before is in `out`
    let mut guard_at = None;
    let mut i = 0;
    while i < bytes.len() {
        let end = token_end(source, i);
        let token = &source[i..end];
        if token == "threadgroup" {
            out.push_str(&source[at..i]);
            at = end;
            if let Some(semicolon) = declaration_end(source, end) {
                out.push_str("EMU_THREADGROUP");
                guard_at = Some(semicolon);
            } else {
                out.push_str("EMU_LOCAL");
            }
        } else if guard_at == Some(i) {
            out.push_str(&source[at..end]);
            at = end;
            let _ = write!(out, " EMU_GUARD({guards})");
            *guards += 1;
            guard_at = None;
        }
        i = end;
    }
    out.push_str(&source[at..]);
    out
}

/// Returns the end of the token at `start`: a name, a comment, a string, or one character.
fn token_end(source: &str, start: usize) -> usize {
    let rest = &source[start..];
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let length = if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        rest.find("*/").map_or(rest.len(), |n| n + 2)
    } else if let Some(text) = rest.strip_prefix('"') {
        let mut escaped = false;
        let close = text.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        close.map_or(rest.len(), |n| n + 2)
    } else if rest.starts_with(is_name) {
        rest.find(|c| !is_name(c)).unwrap_or(rest.len())
    } else {
        rest.chars().next().map_or(1, char::len_utf8)
    };
    start + length
}

/// Returns the position of the `;` of a variable's declaration after `threadgroup`, or `None` for a
/// pointer.
fn declaration_end(source: &str, start: usize) -> Option<usize> {
    let (mut angles, mut declared) = (0, false);
    let mut i = start;
    while i < source.len() {
        let end = token_end(source, i);
        match &source[i..end] {
            ";" => return Some(i),
            "<" if !declared => angles += 1,
            ">" if !declared => angles -= 1,
            "*" | "&" | ")" if !declared && angles == 0 => return None,
            "[" | "=" | "{" | "," if angles == 0 => declared = true,
            _ => {}
        }
        i = end;
    }
    None
}
