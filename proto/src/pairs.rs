//! Lists of a token id and a number, as they lie on the wire: 8 bytes a pair, little-endian.

use bytes::Bytes;

use crate::{WireError, step::at_most};

pub(crate) fn to_bytes(pairs: impl IntoIterator<Item = (u32, f32)>) -> Bytes {
    pairs
        .into_iter()
        .flat_map(|(token, number)| [token.to_le_bytes(), number.to_le_bytes()].concat())
        .collect()
}

/// The pairs of `field`, `limit` at most.
pub(crate) fn from_bytes(
    field: &'static str,
    bytes: &Bytes,
    limit: usize,
) -> Result<Vec<(u32, f32)>, WireError> {
    let (pairs, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(WireError::Invalid {
            field,
            why: format!("{} bytes are no whole number of pairs", bytes.len()),
        });
    }
    at_most(field, pairs.len() as u64, limit as u64)?;
    let pair = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| {
        (
            u32::from_le_bytes([a, b, c, d]),
            f32::from_le_bytes([e, f, g, h]),
        )
    };
    Ok(pairs.iter().map(pair).collect())
}
