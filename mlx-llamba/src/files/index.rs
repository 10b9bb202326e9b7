//! The index of shards: the file of every tensor, read without the rest of the JSON.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most tensors of an index.
const MAX_TENSORS: usize = 1 << 18;

/// The part of an index that is read.
#[derive(Deserialize)]
pub(super) struct Index {
    /// `None` if it is missing or no object.
    #[serde(default, deserialize_with = "weight_map")]
    pub(super) weight_map: Option<WeightMap>,
}

/// Tensors and their files, in the order of the index. The file is empty where there is something else
/// than a text.
pub(super) struct WeightMap(pub(super) Vec<(String, String)>);

fn weight_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WeightMap>, D::Error> {
    deserializer.deserialize_any(Entries)
}

/// Visits what is neither a map nor a text: errors would repeat it, whatever its length.
macro_rules! otherwise {
    ($value:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_seq<S: SeqAccess<'de>>(self, list: S) -> Result<Self::Value, S::Error> {
            IgnoredAny.visit_seq(list).map(|_| $value)
        }
    };
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Option<WeightMap>;

    otherwise!(None);

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut entries = Vec::new();
        while let Some((tensor, Text(file))) = map.next_entry()? {
            if entries.len() == MAX_TENSORS {
                return Err(M::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            entries.push((tensor, file));
        }
        Ok(Some(WeightMap(entries)))
    }
}

/// A text, empty for something else.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            otherwise!(Text(String::new()));

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Text, M::Error> {
                IgnoredAny.visit_map(map).map(|_| Text(String::new()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
