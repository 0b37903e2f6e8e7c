//! An allocator behind whose every buffer the memory ends. Who reads or writes one byte too far dies there, also where the bits would
//! have come out right.
//!
//! Each allocation is a mapping of its own and lies directly before a span that nobody may touch. The sizes of Rust's types are
//! multiples of their alignments, so there is not a byte between; only a layout made by hand may leave some. What is given back is
//! unmapped, so most uses after that are seen too.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;

use libc::{MAP_ANON, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE};

/// A multiple of every system's pages: 64-bit ARM may have some of this size. What is not touched of it takes no memory.
const SPAN: usize = 64 << 10;

/// Mappings begin at a multiple of this, the smallest page there is.
const MAX_ALIGNMENT: usize = 4096;

struct Fence;

#[global_allocator]
static FENCE: Fence = Fence;

/// What is free before an allocation, and with the allocation: whole spans.
fn lengths(layout: Layout) -> (usize, usize) {
    // A layout's size leaves room for this: it is at most `isize::MAX`.
    let taken = layout.size().next_multiple_of(layout.align());
    let whole = taken.next_multiple_of(SPAN);
    (whole - taken, whole)
}

// SAFETY: an allocation is memory of its own until it is given back. It is as long as its layout says and aligned, because its start
// is a multiple of the alignment before the end of a page. Nothing here panics.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > MAX_ALIGNMENT {
            return null_mut();
        }
        let (free, whole) = lengths(layout);
        let flags = MAP_PRIVATE | MAP_ANON;
        // SAFETY: a new mapping, where the system likes; none of it can be touched yet.
        let start = unsafe { libc::mmap(null_mut(), whole + SPAN, PROT_NONE, flags, -1, 0) };
        if start == MAP_FAILED {
            return null_mut();
        }
        // SAFETY: all of that mapping but its last span.
        if unsafe { libc::mprotect(start, whole, PROT_READ | PROT_WRITE) } != 0 {
            return null_mut();
        }
        // SAFETY: `free` is less than a span, and there is at least one.
        unsafe { start.cast::<u8>().add(free) }
    }

    unsafe fn dealloc(&self, allocation: *mut u8, layout: Layout) {
        let (free, whole) = lengths(layout);
        // SAFETY: the mapping that `alloc` made for this layout, which the caller has done with.
        unsafe { libc::munmap(allocation.sub(free).cast(), whole + SPAN) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises. New mappings are zeros.
        unsafe { self.alloc(layout) }
    }
}
