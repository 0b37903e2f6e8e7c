//! A mutable slice handed out in parts to several threads. Its users promise that parts alive together do not overlap.

use std::marker::PhantomData;

/// A slice of which several threads each write their own part.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]`s of disjoint parts, which may go to other threads when `T` may.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            start: data.as_mut_ptr(),
            len: data.len(),
            owner: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// No other part that is alive at the same time may overlap this one.
    #[allow(clippy::mut_from_ref)] // the point of the type: the caller keeps the parts apart
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part {start}+{len} of {}",
            self.len
        );
        // SAFETY: in bounds by the check above; the caller keeps parts apart; the borrow of the whole outlives `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
