//! Where packed weights live: bytes that begin on a cache line, in large chunks of memory that the system is asked to back with
//! huge pages. Streaming weights through pages of 4 KiB costs an address translation every 4 KiB: on a virtual machine with Zen 4 one
//! core read 18 GB/s that way and 28 with huge pages.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

/// The cache line of every CPU this runs on, and the width of its widest vector.
const ALIGNMENT: usize = 64;

/// A huge page of x86-64, and of aarch64 with small pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Address space of a chunk. Pages of it that nobody has written to take no memory.
const CHUNK: usize = 256 << 20;

/// Memory that several matrices share, returned to the system when the last of them is dropped.
#[derive(Debug)]
struct Chunk {
    map: MmapMut,
}

/// The chunk that is being filled, and how far.
struct Filling {
    chunk: Weak<Chunk>,
    used: usize,
}

static FILLING: Mutex<Filling> = Mutex::new(Filling {
    chunk: Weak::new(),
    used: 0,
});

/// A fixed number of bytes, zero at first.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    /// Keeps the memory; none for no bytes.
    _chunk: Option<Arc<Chunk>>,
    start: *mut u8,
    len: usize,
}

// SAFETY: the bytes belong to this value alone, as a `Vec`'s would; the chunk is only kept alive.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above: shared references only read.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// The most that can be asked for, less the room for alignment.
    pub(crate) const MAX_LEN: usize = isize::MAX as usize - HUGE_PAGE;

    /// # Panics
    /// If the system has no address space left, as an allocation would.
    pub(crate) fn zeroed(len: usize) -> AlignedBytes {
        if len == 0 {
            return AlignedBytes {
                _chunk: None,
                start: std::ptr::NonNull::dangling().as_ptr(),
                len,
            };
        }
        let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
        let open = filling.chunk.upgrade();
        let open = open.filter(|chunk| len <= chunk.map.len().saturating_sub(filling.used));
        let chunk = open.unwrap_or_else(|| {
            let chunk = Arc::new(Chunk::new(len));
            filling.used = chunk.map.as_ptr().align_offset(HUGE_PAGE);
            filling.chunk = Arc::downgrade(&chunk);
            chunk
        });
        // SAFETY: `used .. used + len` lies within the chunk, and no other value has been or will be given any of it.
        let start = unsafe { chunk.map.as_ptr().cast_mut().add(filling.used) };
        filling.used = (filling.used + len).next_multiple_of(ALIGNMENT);
        AlignedBytes {
            _chunk: Some(chunk),
            start,
            len,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` and `len` are this value's part of the chunk, which it keeps alive; writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a reference to this part.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Chunk {
    /// Room for `len` bytes and for alignment.
    fn new(len: usize) -> Chunk {
        let map = MmapMut::map_anon(len.max(CHUNK) + HUGE_PAGE);
        let map = map.unwrap_or_else(|err| panic!("no memory for {len} bytes of weights: {err}"));
        // Only advice: where it is not taken, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Chunk { map }
    }
}

impl Clone for AlignedBytes {
    /// Not derived: a copy has bytes of its own.
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
    fn parts_are_aligned_and_apart() {
        let mut bytes: Vec<AlignedBytes> = [1000, 1, 0, 4096, 70]
            .into_iter()
            .map(AlignedBytes::zeroed)
            .collect();
        for (index, bytes) in bytes.iter_mut().enumerate() {
            assert!(bytes.as_slice().iter().all(|byte| *byte == 0));
            bytes.as_mut_slice().fill(index as u8 + 1);
        }
        bytes.push(bytes[3].clone());
        for (index, part) in bytes.iter().enumerate() {
            let value = [1, 2, 3, 4, 5, 4][index];
            assert!(part.as_slice().iter().all(|byte| *byte == value));
            assert!(part.len == 0 || (part.start as usize).is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn a_large_matrix_has_a_chunk_of_its_own() {
        let large = AlignedBytes::zeroed(CHUNK + 1);
        assert_eq!(large.as_slice()[CHUNK], 0);
        let chunk = Arc::downgrade(large._chunk.as_ref().unwrap());
        drop(large);
        assert!(chunk.upgrade().is_none(), "given back");
    }
}
