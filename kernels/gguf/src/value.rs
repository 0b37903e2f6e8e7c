//! One metadata value: a scalar, a string, or an array that stays encoded until somebody asks for its elements.
//!
//! Reading a value checks all of it, arrays to the last string, so that decoding later cannot fail for lack of bytes.

use crate::cursor::Cursor;
use crate::error::{GgufError, quoted};
use crate::limits::{MAX_ARRAY_ELEMENTS, MAX_CHAT_TEMPLATE_BYTES, MAX_STRING_BYTES};

/// The type of a value as the format numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    pub fn id(self) -> u32 {
        self as u32
    }

    pub fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64,
        ]
        .into_iter()
        .find(|ty| ty.id() == id)
    }

    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Str => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of an encoded element, `None` where they vary.
    pub(crate) fn fixed_bytes(self) -> Option<u64> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::Str | ValueType::Array => None,
        }
    }
}

/// Fewest bytes a string can take: its length field.
const MIN_STRING_BYTES: u64 = 8;

/// One value, borrowed from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// Reads the type and the value that follow a key.
    pub(crate) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, GgufError> {
        match read_type(cursor, key)? {
            ValueType::Array => Array::read(cursor, key).map(Value::Array),
            ValueType::Str => {
                let bytes = cursor.string(string_limit(key), "a string value")?;
                let text = std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 {
                    key: key.to_owned(),
                })?;
                Ok(Value::Str(text))
            }
            scalar => {
                let bytes = cursor.take(scalar.fixed_bytes().unwrap_or_default(), "a value")?;
                decode_scalar(scalar, bytes).map_err(|value| GgufError::BadBool {
                    key: key.to_owned(),
                    value,
                })
            }
        }
    }

    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F32(_) => ValueType::F32,
            Value::F64(_) => ValueType::F64,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
        }
    }

    /// The value of any integer type; `None` for everything else, bools included.
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The value of either float type, F64 rounded to nearest.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// What this is, for an error: `u32`, `array of f32`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Array(array) => format!("an array of {}", array.element_type().name()),
            other => other.value_type().name().to_owned(),
        }
    }
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufError> {
    let id = cursor.u32("a value type")?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType {
        key: quoted(key.as_bytes()),
        id,
    })
}

/// Templates have a cap of their own. Named templates carry a suffix.
fn string_limit(key: &str) -> u64 {
    match key.starts_with("tokenizer.chat_template") {
        true => MAX_CHAT_TEMPLATE_BYTES,
        false => MAX_STRING_BYTES,
    }
}

/// Decodes one element of a fixed-size type from exactly its bytes; a bad bool is returned as the error. Bytes of another
/// length, which the callers rule out, read as zero.
fn decode_scalar<'a>(ty: ValueType, bytes: &[u8]) -> Result<Value<'a>, u8> {
    fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(le(bytes))),
        ValueType::I8 => Value::I8(i8::from_le_bytes(le(bytes))),
        ValueType::U16 => Value::U16(u16::from_le_bytes(le(bytes))),
        ValueType::I16 => Value::I16(i16::from_le_bytes(le(bytes))),
        ValueType::U32 => Value::U32(u32::from_le_bytes(le(bytes))),
        ValueType::I32 => Value::I32(i32::from_le_bytes(le(bytes))),
        ValueType::U64 => Value::U64(u64::from_le_bytes(le(bytes))),
        ValueType::I64 => Value::I64(i64::from_le_bytes(le(bytes))),
        ValueType::F32 => Value::F32(f32::from_le_bytes(le(bytes))),
        ValueType::F64 => Value::F64(f64::from_le_bytes(le(bytes))),
        ValueType::Bool | ValueType::Str | ValueType::Array => match le::<1>(bytes) {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(other),
        },
    })
}

/// An array in its encoded form, checked when it was read.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Array<'a>, GgufError> {
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
