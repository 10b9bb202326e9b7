//! Patterns for the dotted names of tensors.

/// True if `pattern` matches a whole dotted name, or its last parts (`down_proj`, `mlp.*`). `*`
/// stands for any text, including none. Takes time proportional to pattern times name.
pub fn matches(pattern: &str, name: &str) -> bool {
    let tails = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    std::iter::once(name).chain(tails).any(|tail| glob(pattern, tail))
}

/// True if `text` is `pattern` with any text in place of every `*`. The leftmost match of each part
/// is enough: it leaves the most text for the parts after it.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_whole_paths_or_their_last_parts() {
        let path = "backbone.layers.13.mlp.down_proj";
        for (pattern, expected) in [
            ("backbone.layers.13.mlp.down_proj", true),
            ("down_proj", true),
            ("mlp.down_proj", true),
            ("backbone.layers.*.down_proj", true),
            ("layers.1*.mlp.*", true),
            ("*", true),
            ("own_proj", false),
            ("down", false),
            ("layers.3.mlp.down_proj", false),
            ("*.up_proj", false),
            ("mlp*mlp", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern}");
        }
        let name = "backbone.layers.3.mlp.down_proj.weight";
        for pattern in ["mlp.*", "*mlp*", name, "down_proj.weight", "layers.3.*", "*", "*.weight"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["mlp", "lp.*", "down_proj", "layers.4.*", "*.bias", ""] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }

    /// A backtracking search would take years.
    #[test]
    fn many_stars_take_no_time() {
        let name = "a".repeat(200);
        assert!(!matches(&("a*".repeat(60) + "b"), &name));
        assert!(matches(&"a*".repeat(60), &name));
    }
}
