//! Bytes whose first one lies on a cache line, so that vector loads of a tile cross as few lines as they can.

/// The cache line of every CPU this runs on, and the width of its widest vector.
const ALIGNMENT: usize = 64;

/// A fixed number of bytes, zero at first. A `Vec` with room to begin on a line: no unsafe code needed.
#[derive(Debug)]
pub(super) struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// The most a `Vec` can hold, less the room for alignment.
    pub(super) const MAX_LEN: usize = isize::MAX as usize - ALIGNMENT;

    pub(super) fn zeroed(len: usize) -> AlignedBytes {
        let storage = vec![0; len + ALIGNMENT];
        let start = storage.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        AlignedBytes {
            storage,
            start,
            len,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl Clone for AlignedBytes {
    /// Not derived: a copied `Vec` begins elsewhere on its line.
    fn clone(&self) -> AlignedBytes {
        let mut copy = AlignedBytes::zeroed(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_when_moved_and_cloned() {
        let bytes = AlignedBytes::zeroed(1000);
        let moved = Box::new(bytes.clone());
        for bytes in [&bytes, &*moved] {
            assert_eq!(bytes.as_slice().as_ptr() as usize % ALIGNMENT, 0);
            assert_eq!(bytes.as_slice(), [0; 1000]);
        }
    }
}
