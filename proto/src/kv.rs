//! How a cluster stores keys and values.

use std::fmt;
use std::str::FromStr;

use crate::{WireError, wire};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvCacheType {
    /// Two bytes an element.
    #[default]
    F16,
    /// 32 elements of a head as signed bytes and one f16 scale: 8.5 bits an element, so the context takes about half the memory.
    Q8_0,
}

/// No type has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of KV cache; use f16 or q8_0")]
pub struct UnknownKvCacheType(String);

impl KvCacheType {
    /// All of them.
    pub const ALL: [KvCacheType; 2] = [KvCacheType::F16, KvCacheType::Q8_0];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            KvCacheType::F16 => "f16",
            KvCacheType::Q8_0 => "q8_0",
        }
    }

    /// Bytes that this many elements of a head, or of several, take.
    pub fn n_bytes(self, n_elements: u64) -> u64 {
        match self {
            KvCacheType::F16 => n_elements.saturating_mul(2),
            KvCacheType::Q8_0 => n_elements.saturating_add(n_elements / 16),
        }
    }

    /// As a message has it.
    pub fn to_wire(self) -> i32 {
        match self {
            KvCacheType::F16 => wire::KvCacheType::F16.into(),
            KvCacheType::Q8_0 => wire::KvCacheType::Q80.into(),
        }
    }

    /// From a message.
    pub fn from_wire(value: i32) -> Result<KvCacheType, WireError> {
        match wire::KvCacheType::try_from(value) {
            Ok(wire::KvCacheType::F16) => Ok(KvCacheType::F16),
            Ok(wire::KvCacheType::Q80) => Ok(KvCacheType::Q8_0),
            Err(_) => Err(WireError::Invalid {
                field: "kv_cache_type",
                why: format!("this build knows no type {value}"),
            }),
        }
    }
}

impl fmt::Display for KvCacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvCacheType {
    type Err = UnknownKvCacheType;

    fn from_str(name: &str) -> Result<KvCacheType, UnknownKvCacheType> {
        let found = KvCacheType::ALL.into_iter().find(|ty| ty.name() == name);
        found.ok_or_else(|| UnknownKvCacheType(name.to_owned()))
    }
}
