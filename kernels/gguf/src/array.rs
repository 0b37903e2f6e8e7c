//! An array of metadata: checked to its last element when read, decoded only when somebody asks.
//!
//! A vocabulary is a quarter of a million strings; keeping it encoded makes opening a file a matter of microseconds.

use crate::cursor::Cursor;
use crate::error::GgufError;
use crate::limits::{MAX_ARRAY_ELEMENTS, MAX_STRING_BYTES};
use crate::value::{Value, ValueType, decode_scalar, read_type};

/// Fewest bytes a string can take: its length field.
const MIN_STRING_BYTES: u64 = 8;

/// An array in its encoded form, checked when it was read.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(crate) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Array<'a>, GgufError> {
        let element = read_type(cursor, key)?;
        let len = cursor.u64("an array length")?;
        Array::read_elements(cursor, key, element, len)
    }

    /// Reads and checks `len` elements.
    fn read_elements(
        cursor: &mut Cursor<'a>,
        key: &str,
        element: ValueType,
        len: u64,
    ) -> Result<Array<'a>, GgufError> {
        if element == ValueType::Array {
            return Err(GgufError::NestedArray {
                key: key.to_owned(),
            });
        }
        let min_bytes = element.fixed_bytes().unwrap_or(MIN_STRING_BYTES);
        let n_elements =
            cursor.check_count("array elements", len, MAX_ARRAY_ELEMENTS, min_bytes)?;
        let bytes = match element.fixed_bytes() {
            Some(size) => cursor.take(len * size, "an array")?,
            None => take_strings(cursor, n_elements)?,
        };
        if element == ValueType::Bool
            && let Some(&value) = bytes.iter().find(|&&b| b > 1)
        {
            return Err(GgufError::BadBool {
                key: key.to_owned(),
                value,
            });
        }
        Ok(Array {
            element,
            len: n_elements,
            bytes,
        })
    }

    /// Checks elements that did not come from a file, such as those a peer sent.
    pub(crate) fn check(
        key: &str,
        element: ValueType,
        len: u64,
        bytes: &'a [u8],
    ) -> Result<Array<'a>, GgufError> {
        let wrong = || GgufError::BadArray {
            key: key.to_owned(),
            element: element.name(),
            n_elements: len,
            n_bytes: bytes.len() as u64,
        };
        let mut cursor = Cursor::new(bytes);
        let array =
            Array::read_elements(&mut cursor, key, element, len).map_err(|error| match error {
                GgufError::Truncated { .. } | GgufError::HeaderTooLarge { .. } => wrong(),
                other => other,
            })?;
        if cursor.left() > 0 || array.bytes.len() != bytes.len() {
            return Err(wrong());
        }
        Ok(array)
    }

    /// An array whose elements [`check`](Self::check) has accepted before.
    pub(crate) fn checked_before(element: ValueType, len: usize, bytes: &'a [u8]) -> Array<'a> {
        Array {
            element,
            len,
            bytes,
        }
    }

    pub fn element_type(&self) -> ValueType {
        self.element
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as the file encodes them: little-endian, strings after their u64 length.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements of an array of strings, `None` for any other.
    pub fn strings(&self) -> Option<StringArray<'a>> {
        (self.element == ValueType::Str).then_some(StringArray {
            len: self.len,
            bytes: self.bytes,
        })
    }

    /// The elements of an array of numbers or bools; none for an array of strings.
    pub fn scalars(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let element = self.element;
        let (size, bytes) = match element.fixed_bytes() {
            Some(size) => (size as usize, self.bytes),
            None => (1, &[][..]),
        };
        bytes
            .chunks_exact(size)
            .filter_map(move |chunk| decode_scalar(element, chunk).ok())
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.element.name(), self.len)
    }
}

/// Steps over `n` strings and returns the bytes they take.
fn take_strings<'a>(cursor: &mut Cursor<'a>, n: usize) -> Result<&'a [u8], GgufError> {
    let mut ahead = cursor.clone();
    for _ in 0..n {
        ahead.string(MAX_STRING_BYTES, "a string of an array")?;
    }
    cursor.take(ahead.offset() - cursor.offset(), "an array of strings")
}

/// An array of strings, decoded while iterating. There is no access by index, which would take time linear in the index:
/// collect what must be looked up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StringArray<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> StringArray<'a> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = RawStr<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        (0..self.len).map_while(move |_| {
            cursor
                .string(MAX_STRING_BYTES, "a string of an array")
                .ok()
                .map(RawStr)
        })
    }
}

/// A string of an array. The format says UTF-8, vocabularies in the wild do not always obey, so the bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawStr<'a>(&'a [u8]);

impl<'a> RawStr<'a> {
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    pub fn str(&self) -> Result<&'a str, std::str::Utf8Error> {
        std::str::from_utf8(self.0)
    }
}
