//! Fields of a request, read within bounds: lists that stop at their limit, trees of a limited size, and fields of which only
//! the presence matters.
//!
//! Nothing here builds more than its limit, whatever a body of `MAX_BODY_BYTES` says: a tree of generic JSON values would
//! take a hundred times the bytes of the body.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::error::ApiError;

/// A list of at most `MAX` entries.
pub(super) struct Bounded<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < MAX {
            match entries.next_element()? {
                Some(entry) => list.push(entry),
                None => return Ok(Bounded(list)),
            }
        }
        match entries.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format!("more than {MAX} entries"))),
            None => Ok(Bounded(list)),
        }
    }
}

/// A string, or a list of at most `MAX` of something.
pub(super) enum TextOr<T, const MAX: usize> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for TextOr<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

struct TextOrVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for TextOrVisitor<T, MAX> {
    type Value = TextOr<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or a list of at most {MAX} entries")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        BoundedVisitor::<T, MAX>(PhantomData)
            .visit_seq(entries)
            .map(|list| TextOr::List(list.0))
    }
}

/// Values in the trees that a request makes, whatever its texts hold. A value takes up to half a kilobyte, and a tree is copied
/// into the template's own; 200 tools of 20 parameters have some 16 000 values.
pub(super) const MAX_VALUES: usize = 32 << 10;

/// JSON of any shape. It becomes a tree only when it is read, so that its values are counted first.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct RawJson(Box<RawValue>);

impl RawJson {
    /// As it is written.
    pub(super) fn text(&self) -> &str {
        self.0.get()
    }

    /// The tree. Errors name the field.
    pub(super) fn read(&self, field: &str) -> Result<Json, ApiError> {
        let json = self.0.get();
        if n_values(json) > MAX_VALUES {
            return Err(ApiError::invalid(format!(
                "`{field}` has more than {MAX_VALUES} values"
            )));
        }
        serde_json::from_str(json)
            .map_err(|error| ApiError::invalid(format!("`{field}` is not valid: {error}")))
    }
}

/// Values and keys in a JSON text, or a few more.
pub(super) fn n_values(json: &str) -> usize {
    let (mut in_string, mut escaped, mut n) = (false, false, 1);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => n += 1,
            _ => {}
        }
    }
    n
}

/// Whether a field asks for something that is not offered. Off are the values that ask for nothing: null, false, 0, an empty
/// list, object or string, `"none"`, `"auto"`, `"text"` and `{"type":"text"}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    No,
    Yes,
}

impl Asked {
    fn unless(off: bool) -> Asked {
        if off { Asked::No } else { Asked::Yes }
    }
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AskedVisitor)
    }
}

struct AskedVisitor;

impl<'de> Visitor<'de> for AskedVisitor {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Asked, E> {
        Ok(Asked::No)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Asked, E> {
        Ok(Asked::unless(!value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Asked, E> {
        Ok(Asked::unless(value == 0))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Asked, E> {
        Ok(Asked::unless(value == 0))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Asked, E> {
        Ok(Asked::unless(value == 0.0))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Asked, E> {
        Ok(Asked::unless(matches!(text, "" | "none" | "auto" | "text")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Asked, A::Error> {
        let empty = entries.next_element::<IgnoredAny>()?.is_none();
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Asked::unless(empty))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Asked, A::Error> {
        let mut off = true;
        while let Some(Key(is_type)) = entries.next_key()? {
            let value = entries.next_value::<Asked>()?;
            off &= is_type && value == Asked::No;
        }
        Ok(Asked::unless(off))
    }
}

/// A key of an object, and whether it is `type`.
struct Key(bool);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key == "type"))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_is_off_only_for_values_that_ask_for_nothing() {
        let off = [
            "null",
            "false",
            "0",
            "[]",
            "{}",
            r#""""#,
            r#""none""#,
            r#""auto""#,
            r#"{"type":"text"}"#,
        ];
        for json in off {
            assert_eq!(
                serde_json::from_str::<Asked>(json).unwrap(),
                Asked::No,
                "{json}"
            );
        }
        let on = [
            "true",
            "5",
            "-1",
            "0.5",
            "[0]",
            r#""required""#,
            r#"{"type":"json_object"}"#,
            r#"{"7":0}"#,
            r#"{"type":"text","x":{}}"#,
            r#"[[],{"a":[1]}]"#,
        ];
        for json in on {
            assert_eq!(
                serde_json::from_str::<Asked>(json).unwrap(),
                Asked::Yes,
                "{json}"
            );
        }
    }

    #[test]
    fn values_are_counted_before_there_is_a_tree() {
        for (json, n) in [
            ("0", 1),
            ("[0,0]", 3),
            (r#"{"a,b":"[{\"\\","c":[{}]}"#, 7),
            (r#""[[[[""#, 1),
        ] {
            assert_eq!(n_values(json), n, "{json}");
        }
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        let many: RawJson = serde_json::from_str(&many).unwrap();
        assert!(many.read("tools").is_err());
        let long = format!("[{:?}]", "[,:{".repeat(MAX_VALUES));
        let long: RawJson = serde_json::from_str(&long).unwrap();
        assert!(long.read("tools").is_ok());
    }

    #[test]
    fn a_list_ends_at_its_limit() {
        assert!(serde_json::from_str::<Bounded<u32, 2>>("[1,2]").is_ok());
        let error = serde_json::from_str::<Bounded<u32, 2>>("[1,2,3]")
            .err()
            .unwrap();
        assert!(
            error.to_string().starts_with("more than 2 entries"),
            "{error}"
        );
        assert!(serde_json::from_str::<TextOr<u32, 2>>("[1,2,3]").is_err());
        assert!(matches!(
            serde_json::from_str::<TextOr<u32, 2>>(r#""x""#),
            Ok(TextOr::Text(_))
        ));
    }
}
