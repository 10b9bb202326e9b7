//! Checks that JSON is sound, which make nothing of it.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Reads JSON and keeps nothing. Keys that are given twice are refused: programs differ in which of two
/// they take.
#[derive(Clone, Copy, Default)]
pub(super) struct Sound<'f> {
    /// If given, every `type` must be a string, except in fields with these names, which are not read.
    pub(super) kinds_except: Option<&'f [&'f str]>,
}

impl Sound<'_> {
    /// Checks a text.
    ///
    /// # Errors
    /// The line and column of the first mistake.
    pub(super) fn check(self, text: &str) -> Result<(), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        self.deserialize(&mut deserializer)?;
        deserializer.end()
    }
}

impl<'de> DeserializeSeed<'de> for Sound<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(()) = seq.next_element_seed(self)? {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Hashes that nobody can foretell take less memory than the keys.
        let (hashes, mut seen) = (RandomState::new(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(hashes.hash_one(&name)) {
                let shown: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format!("{shown:?} is given twice")));
            }
            match self.kinds_except {
                Some(free) if free.contains(&name.as_str()) => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(_) if name == "type" => {
                    if !map.next_value::<&RawValue>()?.get().starts_with('"') {
                        return Err(A::Error::custom("type: expected a string"));
                    }
                }
                _ => map.next_value_seed(self)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Sound;

    fn error(text: &str) -> String {
        Sound::default().check(text).unwrap_err().to_string()
    }

    #[test]
    fn duplicate_keys_are_rejected() {
        Sound::default()
            .check(r#"{"z":[1,-2,2.5,"\u00e9",null,true],"a":{"z":{},"b":[]}}"#)
            .unwrap();
        for text in [r#"{"a":1,"b":2,"a":1}"#, r#"[{"x":{"a":null,"\u0061":1}}]"#] {
            let error = error(text);
            assert!(error.starts_with("\"a\" is given twice"), "{error}");
        }
        assert!(error(&"[".repeat(200)).contains("recursion limit"));
        assert!(error("{} 1").contains("trailing"));
    }

    #[test]
    fn kinds_are_strings() {
        let kinds = Sound { kinds_except: Some(&["free"]) };
        kinds.check(r#"[{"type":"a","free":{"type":1}}]"#).unwrap();
        let error = kinds.check(r#"{"a":[{"type":1}]}"#).unwrap_err().to_string();
        assert!(error.starts_with("type: expected a string"), "{error}");
    }
}
