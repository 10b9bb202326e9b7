//! JSON as text, of which the wanted parts are read into types of their own, without a tree of the whole.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Calls `each` with the elements of a list, or with the names and values of an object. Does nothing for
/// other values, and ends at a mistake.
pub(super) fn each<'t>(text: &'t str, each: impl FnMut(&str, &'t RawValue)) {
    struct Each<F>(F);

    impl<'de, F: FnMut(&str, &'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list or an object")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(value) = seq.next_element()? {
                (self.0)("", value);
            }
            Ok(())
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry::<String, _>()? {
                (self.0)(&name, value);
            }
            Ok(())
        }
    }
    let _ = serde_json::Deserializer::from_str(text).deserialize_any(Each(each));
}

/// A text, or a list or an object that is a `T`.
pub(crate) enum TextOr<T> {
    Text(String),
    Other(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list or an object")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<TextOr<T>, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(seq)).map(TextOr::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Other)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// Reads an enum of a text and something else. Serde's `untagged` makes a tree of the value first.
macro_rules! text_or {
    ($name:ident { $text:ident, $other:ident }, $expected:literal) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use $crate::request::raw::TextOr;
                match TextOr::deserialize(deserializer) {
                    Ok(TextOr::Text(text)) => Ok(Self::$text(text)),
                    Ok(TextOr::Other(other)) => Ok(Self::$other(other)),
                    Err(_) => Err(serde::de::Error::custom(concat!("expected ", $expected))),
                }
            }
        }
    };
}
pub(crate) use text_or;
