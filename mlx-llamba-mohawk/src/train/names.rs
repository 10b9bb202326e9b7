//! Which parameters a pattern means.

/// True if one of `patterns` [`fits`] `name`.
pub(crate) fn any_fits(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

/// True if `pattern` fits a parameter's whole name, or its last parts (`out_proj.weight`,
/// `mlp.*`), with `*` for anything.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let mut tails =
        std::iter::once(name).chain(name.match_indices('.').map(|(i, _)| &name[i + 1..]));
    tails.any(|tail| equals(pattern, tail))
}

/// True if `text` is `pattern` with something, or nothing, for every `*`.
fn equals(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((first, rest)) => text.strip_prefix(first).is_some_and(|text| {
            (0..=text.len()).filter(|&i| text.is_char_boundary(i)).any(|i| equals(rest, &text[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_parameters_from_their_end() {
        let name = "backbone.layers.3.mlp.down_proj.weight";
        for pattern in ["mlp.*", "*mlp*", name, "down_proj.weight", "layers.3.*", "*", "*.weight"] {
            assert!(any_fits(&["other".into(), pattern.into()], name), "{pattern}");
        }
        for pattern in ["mlp", "lp.*", "down_proj", "layers.4.*", "*.bias", ""] {
            assert!(!any_fits(&[pattern.into()], name), "{pattern}");
        }
    }
}
