//! Reading numbers of an architecture: keys with its prefix, each value inside its range.

use crate::error::{GgufError, quoted};
use crate::metadata::Metadata;
use crate::value::Value;

/// Metadata seen through an architecture's name: `block_count` means `llama.block_count`.
pub(crate) struct ArchKeys<'m> {
    pub(crate) metadata: &'m Metadata<'m>,
    pub(crate) prefix: &'static str,
}

impl ArchKeys<'_> {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A required number from 1 to `limit`.
    pub(crate) fn count(&self, name: &str, limit: u32) -> Result<u32, GgufError> {
        count(self.metadata, &self.key(name), limit)
    }

    /// The same, with a value for an absent key, which must pass too.
    pub(crate) fn count_or(&self, name: &str, default: u32, limit: u32) -> Result<u32, GgufError> {
        let value = self.metadata.u32(&self.key(name))?.unwrap_or(default);
        in_range(&self.key(name), value, limit)
    }

    /// A count that some files state once and others per layer. Layers that differ are refused: no supported model has them.
    pub(crate) fn uniform_count(&self, name: &str, limit: u32) -> Result<u32, GgufError> {
        match self.per_layer(name)? {
            Some(value) => in_range(&self.key(name), value, limit),
            None => self.count(name, limit),
        }
    }

    pub(crate) fn uniform_count_or(
        &self,
        name: &str,
        default: u32,
        limit: u32,
    ) -> Result<u32, GgufError> {
        match self.per_layer(name)? {
            Some(value) => in_range(&self.key(name), value, limit),
            None => self.count_or(name, default, limit),
        }
    }

    /// The one value of a per-layer list; `None` when the key is no list.
    fn per_layer(&self, name: &str) -> Result<Option<u32>, GgufError> {
        let key = self.key(name);
        let Some(Value::Array(_)) = self.metadata.get(&key) else {
            return Ok(None);
        };
        let values = self.metadata.u32s(&key)?.unwrap_or_default();
        match values.split_first() {
            Some((first, rest)) if rest.iter().all(|value| value == first) => Ok(Some(*first)),
            Some(_) => Err(GgufError::UnsupportedFeature {
                key,
                value: format!("{} values", values.len()),
                feature: "a shape that changes from layer to layer",
            }),
            None => Err(self.bad(
                name,
                "an empty list",
                "one value, or one per layer".to_owned(),
            )),
        }
    }

    /// A required finite number above zero.
    pub(crate) fn positive(&self, name: &str) -> Result<f32, GgufError> {
        let value = self.metadata.require_f32(&self.key(name))?;
        self.check_positive(name, value)
    }

    pub(crate) fn positive_or(&self, name: &str, default: f32) -> Result<f32, GgufError> {
        let value = self.metadata.f32(&self.key(name))?.unwrap_or(default);
        self.check_positive(name, value)
    }

    /// Zero is how converters write "not used".
    pub(crate) fn positive_if_set(&self, name: &str) -> Result<Option<f32>, GgufError> {
        let value = self
            .metadata
            .f32(&self.key(name))?
            .filter(|&value| value != 0.0);
        value
            .map(|value| self.check_positive(name, value))
            .transpose()
    }

    fn check_positive(&self, name: &str, value: f32) -> Result<f32, GgufError> {
        match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => Err(self.bad(name, value, "a finite number above zero".to_owned())),
        }
    }

    pub(crate) fn bad(&self, name: &str, value: impl ToString, rule: String) -> GgufError {
        GgufError::BadValue {
            key: self.key(name),
            value: quoted(value.to_string().as_bytes()),
            rule,
        }
    }
}

/// A required number from 1 to `limit` under a full key.
pub(crate) fn count(metadata: &Metadata<'_>, key: &str, limit: u32) -> Result<u32, GgufError> {
    in_range(key, metadata.require_u32(key)?, limit)
}

fn in_range(key: &str, value: u32, limit: u32) -> Result<u32, GgufError> {
    match (1..=limit).contains(&value) {
        true => Ok(value),
        false => Err(GgufError::BadValue {
            key: key.to_owned(),
            value: value.to_string(),
            rule: format!("from 1 to {limit}"),
        }),
    }
}
