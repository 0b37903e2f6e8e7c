//! Memory for blocks of the KV cache, in large pages where the system has them.
#![allow(unsafe_code)]

use std::ops::Range;

use half::f16;

use super::{KvSlice, KvSliceMut, KvType};
use crate::pack::Part;

/// Elements of several blocks, zero at first.
#[derive(Debug)]
pub struct KvPage {
    ty: KvType,
    n_elements: usize,
    /// The elements or codes, then the scales.
    bytes: Part,
}

impl KvPage {
    /// # Panics
    /// If the system has no address space left, as an allocation would, or q8_0 is asked for no whole blocks.
    pub fn new(ty: KvType, n_elements: usize) -> KvPage {
        // Scales follow the codes, at an address that is even.
        assert!(ty != KvType::Q8_0 || n_elements.is_multiple_of(super::Q8_0_BLOCK));
        let n_bytes = usize::try_from(ty.n_bytes(n_elements as u128)).unwrap_or(usize::MAX);
        KvPage {
            ty,
            n_elements,
            bytes: Part::for_kv_cache(n_bytes),
        }
    }

    /// Some of its elements.
    pub fn slice(&self, range: Range<usize>) -> KvSlice<'_> {
        let bytes = self.bytes.as_slice();
        // SAFETY: numbers of any bytes, and the memory was zeroed.
        unsafe {
            match self.ty {
                KvType::F32 => KvSlice::F32(&bytes.align_to().1[range]),
                KvType::F16 => KvSlice::F16(&bytes.align_to().1[range]),
                KvType::Q8_0 => {
                    let (codes, scales) = bytes.split_at(self.n_elements);
                    KvSlice::Q8_0 {
                        codes: &codes.align_to().1[range.clone()],
                        scales: &scales.align_to::<f16>().1[scales_of(&range)],
                    }
                }
            }
        }
    }

    /// Some of its elements, to be written.
    pub fn slice_mut(&mut self, range: Range<usize>) -> KvSliceMut<'_> {
        let bytes = self.bytes.as_mut_slice();
        // SAFETY: as above.
        unsafe {
            match self.ty {
                KvType::F32 => KvSliceMut::F32(&mut bytes.align_to_mut().1[range]),
                KvType::F16 => KvSliceMut::F16(&mut bytes.align_to_mut().1[range]),
                KvType::Q8_0 => {
                    let (codes, scales) = bytes.split_at_mut(self.n_elements);
                    KvSliceMut::Q8_0 {
                        codes: &mut codes.align_to_mut().1[range.clone()],
                        scales: &mut scales.align_to_mut::<f16>().1[scales_of(&range)],
                    }
                }
            }
        }
    }
}

/// Where the scales of whole blocks are.
fn scales_of(elements: &Range<usize>) -> Range<usize> {
    KvType::n_scales(elements.start)..KvType::n_scales(elements.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{KV_BLOCK, kv_store};

    #[test]
    fn what_is_stored_in_a_part_is_found_there() {
        let block = KvType::block_elements(1, 32);
        let (k, v) = ([1.0; 32], [-2.0; 32]);
        for ty in [KvType::F32, KvType::F16, KvType::Q8_0] {
            let mut page = KvPage::new(ty, 3 * block);
            let middle = block..2 * block;
            kv_store(page.slice_mut(middle.clone()), 32, 5, &k, &v);
            let sum = |range| -> f32 {
                match page.slice(range) {
                    KvSlice::F32(data) => data.iter().sum(),
                    KvSlice::F16(data) => data.iter().map(|x| x.to_f32()).sum(),
                    KvSlice::Q8_0 { codes, scales } => {
                        let [one, two] = [5, KV_BLOCK + 5].map(|at| scales[at].to_f32());
                        let (k, v) = codes.split_at(KV_BLOCK * 32);
                        let sum = |codes: &[i8]| codes.iter().map(|x| f32::from(*x)).sum::<f32>();
                        one * sum(k) + two * sum(v)
                    }
                }
            };
            assert!((sum(middle) + 32.0).abs() < 0.1, "{ty:?}");
            assert_eq!(
                [sum(0..block), sum(2 * block..3 * block)],
                [0.0; 2],
                "{ty:?}"
            );
        }
    }
}
