//! A reading position in untrusted bytes. Nothing here can read outside them: every step says what it wants first.

use crate::error::GgufError;
use crate::limits::MAX_HEADER_BYTES;

/// Reads little-endian values from the front of a file, inside the cap on headers.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    /// The header's bytes at most; `at` is an offset into them and into the file alike.
    bytes: &'a [u8],
    at: usize,
    /// The file goes on after `bytes`, so running out means a header over the cap, not a short file.
    capped: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a [u8]) -> Self {
        let cap = usize::try_from(MAX_HEADER_BYTES).unwrap_or(usize::MAX);
        let (bytes, capped) = file
            .get(..cap)
            .filter(|_| file.len() > cap)
            .map_or((file, false), |head| (head, true));
        Cursor {
            bytes,
            at: 0,
            capped,
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Bytes that can still be read, the bound for every count that is read.
    pub(crate) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes; `what` names them in the error.
    pub(crate) fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        match (taken, end) {
            (Some(taken), Some(end)) => {
                self.at = end;
                Ok(taken)
            }
            _ => Err(self.short(n, what)),
        }
    }

    /// Exactly `N` bytes by value.
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let head = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>());
        match head {
            Some(head) => {
                self.at += N;
                Ok(*head)
            }
            None => Err(self.short(N as u64, what)),
        }
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length as u64, then its bytes. The cap is checked before the bytes are.
    pub(crate) fn string(&mut self, limit: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let offset = self.offset();
        let n_bytes = self.u64(what)?;
        if n_bytes > limit {
            return Err(GgufError::TooLong {
                what,
                offset,
                n_bytes,
                limit,
            });
        }
        self.take(n_bytes, what)
    }

    /// A count of things of which each takes at least `min_bytes`, so that it is safe to reserve room for it.
    pub(crate) fn check_count(
        &self,
        what: &'static str,
        count: u64,
        limit: u64,
        min_bytes: u64,
    ) -> Result<usize, GgufError> {
        if count > limit {
            return Err(GgufError::TooMany { what, count, limit });
        }
        let needed = count.saturating_mul(min_bytes);
        if needed > self.left() {
            return Err(self.short(needed, what));
        }
        usize::try_from(count).map_err(|_| GgufError::TooMany { what, count, limit })
    }

    fn short(&self, needed: u64, what: &'static str) -> GgufError {
        let (offset, left) = (self.offset(), self.left());
        match self.capped {
            true => GgufError::HeaderTooLarge {
                what,
                offset,
                limit: MAX_HEADER_BYTES,
            },
            false => GgufError::Truncated {
                what,
                offset,
                needed,
                left,
            },
        }
    }
}
