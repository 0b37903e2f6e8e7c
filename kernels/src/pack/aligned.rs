//! Where packed weights and the KV cache live: bytes that begin on a cache line, in large chunks of memory that the system is asked
//! to back with huge pages. Streaming through pages of 4 KiB costs an address translation every 4 KiB: on a virtual machine with Zen 4
//! one core read 18 GB/s of weights that way and 28 with huge pages. Small matrices are ordinary allocations.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

/// The cache line of every CPU this runs on, and the width of its widest vector.
const ALIGNMENT: usize = 64;

/// A huge page of x86-64, and of aarch64 with small pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Address space of a chunk. Pages of it that nobody has written to take no memory.
const CHUNK: usize = 256 << 20;
const KV_CHUNK: usize = 32 << 20;

/// Fewer bytes than this are an allocation of their own. They stay in a CPU's cache, so a chunk would not make them faster, and one
/// small matrix should not keep a whole chunk. It also lets the tests' allocator put a fence directly behind a matrix, which is why
/// they are not aligned: no kernel needs it, and padding would hide a read of too much.
const SMALL: usize = 64 << 10;

/// Memory that several matrices share, returned to the system when the last of them is dropped.
#[derive(Debug)]
struct Chunk {
    map: MmapMut,
}

/// Chunks for one purpose: what is dropped together should lie together.
struct Arena {
    chunk_len: usize,
    filling: Mutex<Filling>,
}

/// The chunk that is being filled, and how far.
struct Filling {
    chunk: Weak<Chunk>,
    used: usize,
}

static WEIGHTS: Arena = Arena::new(CHUNK);
static KV_CACHE: Arena = Arena::new(KV_CHUNK);

/// A fixed number of bytes, zero at first.
#[derive(Debug)]
pub(crate) enum AlignedBytes {
    Small(Box<[u8]>),
    Large(Part),
}

/// Some bytes of a chunk.
#[derive(Debug)]
pub(crate) struct Part {
    /// Keeps the memory.
    _chunk: Arc<Chunk>,
    start: *mut u8,
    len: usize,
}

// SAFETY: the bytes belong to this value alone, as a `Vec`'s would; the chunk is only kept alive.
unsafe impl Send for Part {}
// SAFETY: as above: shared references only read.
unsafe impl Sync for Part {}

impl AlignedBytes {
    /// The most that can be asked for, less the room for alignment.
    pub(crate) const MAX_LEN: usize = isize::MAX as usize - HUGE_PAGE;

    /// # Panics
    /// If the system has no address space left, as an allocation would.
    pub(crate) fn zeroed(len: usize) -> AlignedBytes {
        match len < SMALL {
            true => AlignedBytes::Small(vec![0; len].into()),
            false => AlignedBytes::Large(WEIGHTS.zeroed(len)),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            AlignedBytes::Small(bytes) => bytes,
            AlignedBytes::Large(part) => part.as_slice(),
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            AlignedBytes::Small(bytes) => bytes,
            AlignedBytes::Large(part) => part.as_mut_slice(),
        }
    }
}

impl Arena {
    const fn new(chunk_len: usize) -> Arena {
        Arena {
            chunk_len,
            filling: Mutex::new(Filling {
                chunk: Weak::new(),
                used: 0,
            }),
        }
    }

    fn zeroed(&self, len: usize) -> Part {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let open = filling.chunk.upgrade();
        let open = open.filter(|chunk| len <= chunk.map.len().saturating_sub(filling.used));
        let chunk = open.unwrap_or_else(|| {
            let chunk = Arc::new(Chunk::new(len.max(self.chunk_len)));
            filling.used = chunk.map.as_ptr().align_offset(HUGE_PAGE);
            filling.chunk = Arc::downgrade(&chunk);
            chunk
        });
        // SAFETY: `used .. used + len` lies within the chunk, and no other value has been or will be given any of it.
        let start = unsafe { chunk.map.as_ptr().cast_mut().add(filling.used) };
        filling.used = (filling.used + len).next_multiple_of(ALIGNMENT);
        Part {
            _chunk: chunk,
            start,
            len,
        }
    }
}

impl Part {
    /// Bytes for the KV cache, aligned to a cache line.
    ///
    /// # Panics
    /// As [`AlignedBytes::zeroed`].
    pub(crate) fn for_kv_cache(len: usize) -> Part {
        KV_CACHE.zeroed(len)
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
        let map = MmapMut::map_anon(len + HUGE_PAGE);
        let map = map.unwrap_or_else(|err| panic!("no memory for {len} bytes: {err}"));
        // Only advice: where it is not taken, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Chunk { map }
    }
}

impl Clone for AlignedBytes {
    /// Not derived: a copy has bytes of its own.
    fn clone(&self) -> AlignedBytes {
        let mut copy = AlignedBytes::zeroed(self.as_slice().len());
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_apart() {
        let lens = [SMALL + 1000, SMALL, 1, 0, SMALL - 1, SMALL + 4096, 70];
        let mut all: Vec<AlignedBytes> = lens.into_iter().map(AlignedBytes::zeroed).collect();
        for (index, bytes) in all.iter_mut().enumerate() {
            assert!(bytes.as_slice().iter().all(|byte| *byte == 0));
            bytes.as_mut_slice().fill(index as u8);
        }
        let copy = all[5].clone();
        for (index, bytes) in (0..).zip(&all).chain([(5, &copy)]) {
            assert_eq!(bytes.as_slice(), vec![index as u8; lens[index]]);
            match bytes {
                AlignedBytes::Small(_) => assert!(lens[index] < SMALL),
                AlignedBytes::Large(part) => {
                    assert!((part.start as usize).is_multiple_of(ALIGNMENT));
                }
            }
        }
    }

    #[test]
    fn a_large_matrix_has_a_chunk_of_its_own() {
        let large = WEIGHTS.zeroed(CHUNK + 1);
        assert_eq!(large.as_slice()[CHUNK], 0);
        let chunk = Arc::downgrade(&large._chunk);
        drop(large);
        assert!(chunk.upgrade().is_none(), "given back");
    }
}
