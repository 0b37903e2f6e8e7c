//! One metadata value: a scalar, a string, or an array (see `array`).
//!
//! Reading a value checks all of it, so that nothing that asks for it later can fail for lack of bytes.

use crate::array::Array;
use crate::cursor::Cursor;
use crate::error::{GgufError, quoted};
use crate::limits::{MAX_CHAT_TEMPLATE_BYTES, MAX_STRING_BYTES};

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

pub(crate) fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufError> {
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
pub(crate) fn decode_scalar<'a>(ty: ValueType, bytes: &[u8]) -> Result<Value<'a>, u8> {
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
