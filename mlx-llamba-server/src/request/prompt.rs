//! Texts and token ids.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Texts, as such or as token ids.
#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Texts(#[schemars(length(min = 1))] Vec<String>),
    Tokens(#[schemars(length(min = 1))] Vec<u32>),
    TokenLists(#[schemars(length(min = 1), inner(length(min = 1)))] Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        // The first element tells the type of all.
        let first = text.strip_prefix('[').map(|rest| rest.trim_start().as_bytes().first());
        let read = match first {
            None => serde_json::from_str(text).map(Self::Text),
            Some(Some(b'"' | b']')) => serde_json::from_str(text).map(Self::Texts),
            Some(Some(b'[')) => serde_json::from_str(text).map(|lists: Vec<Ids>| {
                Self::TokenLists(lists.into_iter().map(|ids| ids.0).collect())
            }),
            Some(_) => serde_json::from_str(text).map(|Ids(ids)| Self::Tokens(ids)),
        };
        read.map_err(|_| D::Error::custom("expected a string, token ids, or a list of either"))
    }
}

/// Token ids. JSON's 1.0 is an integer.
#[derive(Debug)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(try_from = "f64")]
        struct Id(u32);

        impl TryFrom<f64> for Id {
            type Error = String;

            fn try_from(number: f64) -> Result<Self, String> {
                let id = number as u32;
                let same = f64::from(id) == number;
                same.then_some(Self(id)).ok_or_else(|| format!("{number} is not a token id"))
            }
        }
        let ids = Vec::<Id>::deserialize(deserializer)?;
        Ok(Self(ids.into_iter().map(|Id(id)| id).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Prompt;

    #[test]
    fn lists_are_those_of_their_first_element() {
        for (text, expected) in [
            (r#""a""#, r#"Text("a")"#),
            (r#"["a", "b"]"#, r#"Texts(["a", "b"])"#),
            ("[ ]", "Texts([])"),
            ("[1, 2.0, 4294967295]", "Tokens([1, 2, 4294967295])"),
            ("[ [1.0], [] ]", "TokenLists([[1], []])"),
        ] {
            let prompt: Prompt = serde_json::from_str(text).unwrap();
            assert_eq!(format!("{prompt:?}"), expected);
        }
        for text in [
            "1",
            "null",
            "{}",
            "[1, \"a\"]",
            "[\"a\", 1]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[[1], 1]",
        ] {
            let error = serde_json::from_str::<Prompt>(text).unwrap_err().to_string();
            assert!(error.starts_with("expected a string, token ids"), "{text}: {error}");
        }
    }
}
