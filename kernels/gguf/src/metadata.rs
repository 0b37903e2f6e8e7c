//! The metadata of a model: entries in file order, found by key, read with the type the caller expects.
//!
//! A typed getter gives `None` for an absent key and an error that names the key for a value of another type. Integers are
//! accepted from any integer type whose value fits, because converters disagree on widths.

use std::collections::HashMap;

use crate::array::{Array, StringArray};
use crate::error::{GgufError, quoted};
use crate::value::Value;

/// All entries of a file's metadata, borrowed from its bytes.
#[derive(Debug, Clone, Default)]
pub struct Metadata<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
    /// Position in `entries`. Only ever looked up, so its random order shows nowhere.
    index: HashMap<&'a str, u32>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Metadata {
            entries: Vec::with_capacity(n),
            index: HashMap::with_capacity(n),
        }
    }

    /// Adds an entry with a checked key, which must be new.
    pub(crate) fn insert(&mut self, key: &'a str, value: Value<'a>) -> Result<(), GgufError> {
        if self.index.insert(key, self.entries.len() as u32).is_some() {
            return Err(GgufError::DuplicateKey {
                key: quoted(key.as_bytes()),
            });
        }
        self.entries.push((key, value));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let at = *self.index.get(key)?;
        self.entries.get(at as usize).map(|(_, value)| value)
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::Str(text) => Some(*text),
            _ => None,
        })
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", Value::as_f32)
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "an integer from 0 to 2^32-1")
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "an integer from 0 to 2^64-1")
    }

    pub fn i32(&self, key: &str) -> Result<Option<i32>, GgufError> {
        self.integer(key, "an integer from -2^31 to 2^31-1")
    }

    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(*array),
            _ => None,
        })
    }

    pub fn strings(&self, key: &str) -> Result<Option<StringArray<'a>>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(array) => array.strings(),
            _ => None,
        })
    }

    /// An array of either float type.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.numbers(key, "an array of floats", |value| value.as_f32())
    }

    /// An array of any integer type, every element from 0 to 2^32-1.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.numbers(key, "an array of integers from 0 to 2^32-1", |value| {
            fitting(&value)
        })
    }

    /// An array of any integer type, every element from -2^31 to 2^31-1.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.numbers(key, "an array of integers from -2^31 to 2^31-1", |value| {
            fitting(&value)
        })
    }

    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.numbers(key, "an array of bools", |value| match value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    pub fn require_str(&self, key: &str) -> Result<&'a str, GgufError> {
        required(key, self.str(key)?)
    }

    pub fn require_bool(&self, key: &str) -> Result<bool, GgufError> {
        required(key, self.bool(key)?)
    }

    pub fn require_f32(&self, key: &str) -> Result<f32, GgufError> {
        required(key, self.f32(key)?)
    }

    pub fn require_u32(&self, key: &str) -> Result<u32, GgufError> {
        required(key, self.u32(key)?)
    }

    pub fn require_strings(&self, key: &str) -> Result<StringArray<'a>, GgufError> {
        required(key, self.strings(key)?)
    }

    pub fn require_f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        required(key, self.f32s(key)?)
    }

    pub fn require_i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        required(key, self.i32s(key)?)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| wrong_type(key, expected, value))
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_integer() {
            None => Err(wrong_type(key, "an integer", value)),
            Some(number) => T::try_from(number)
                .map(Some)
                .map_err(|_| GgufError::BadValue {
                    key: quoted(key.as_bytes()),
                    value: number.to_string(),
                    rule: expected.to_owned(),
                }),
        }
    }

    /// Decodes an array of scalars; memory is bounded by the cap on array elements. An empty array decodes to nothing
    /// whatever its element type, as there is nothing in it to be wrong.
    fn numbers<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) if array.strings().is_none() || array.is_empty() => {
                array.scalars().map(read).collect()
            }
            _ => None,
        })
    }
}

fn fitting<T: TryFrom<i128>>(value: &Value<'_>) -> Option<T> {
    value
        .as_integer()
        .and_then(|number| T::try_from(number).ok())
}

fn wrong_type(key: &str, expected: &'static str, value: &Value<'_>) -> GgufError {
    GgufError::WrongType {
        key: quoted(key.as_bytes()),
        expected,
        found: value.describe(),
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::MissingKey {
        key: quoted(key.as_bytes()),
    })
}
