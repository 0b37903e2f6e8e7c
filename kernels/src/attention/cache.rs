//! What a block of the KV cache holds, and how keys and values get into it.
//!
//! A block is 128 positions of one layer, `[kv_head][K][V]`: of K, positions lie side by side, so that they are in vector lanes when
//! scores are computed, of V dimensions, so that those are when it is summed. Both lie in stripes as wide as what is computed at a
//! time, K as `(2, head_dim, 64)` and V as `(head_dim / 64, 128, 64)` with what is left of the dimensions in the last stripe: then
//! attention touches lines in the order in which they lie, and memory is foreseen to be needed. What is stored is widened to f32
//! exactly, so attention has one arithmetic for all types.

use half::f16;

use crate::isa::scalar::quantize::codes_of;

/// Positions in a KV block. Blocks begin at multiples of it, and so do the chunks of the softmax.
pub const KV_BLOCK: usize = 128;

/// Elements of a head that share a scale in q8_0.
pub(crate) const Q8_0_BLOCK: usize = 32;

/// Positions of keys, and dimensions of values, that lie side by side.
pub(crate) const STRIPE: usize = 64;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    /// Rounded to nearest even.
    F16,
    /// Each 32 elements of a head as signed bytes and one f16 scale: GGML's type of that name, 8.5 bits an element. The size of a
    /// head is a multiple of 32.
    Q8_0,
}

/// The elements of a block, as stored.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Q8_0 {
        codes: &'a [i8],
        /// In the order of the codes: of K 32 rows share a row of scales, of V 32 codes share a scale.
        scales: &'a [f16],
    },
}

/// The elements of a block, to be written.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Q8_0 {
        codes: &'a mut [i8],
        scales: &'a mut [f16],
    },
}

/// Keys and values of one head, as attention reads them.
#[derive(Clone, Copy)]
pub(crate) enum KvHead<'a> {
    F32 {
        k: &'a [f32],
        v: &'a [f32],
    },
    F16 {
        k: &'a [f16],
        v: &'a [f16],
    },
    Q8_0 {
        k: &'a [i8],
        v: &'a [i8],
        k_scales: &'a [f32],
        v_scales: &'a [f32],
    },
}

impl KvType {
    /// Elements of a block of one layer: keys and values of 128 positions.
    pub const fn block_elements(n_kv_heads: usize, head_dim: usize) -> usize {
        2 * KV_BLOCK * n_kv_heads * head_dim
    }

    /// Bytes that this many elements take.
    pub const fn n_bytes(self, n_elements: u128) -> u128 {
        match self {
            KvType::F32 => 4 * n_elements,
            KvType::F16 => 2 * n_elements,
            KvType::Q8_0 => n_elements + n_elements / Q8_0_BLOCK as u128 * 2,
        }
    }

    /// Scales of so many elements of q8_0.
    pub const fn n_scales(n_elements: usize) -> usize {
        n_elements / Q8_0_BLOCK
    }
}

/// Store the key and value of one position in slot `position % 128` of its block. `k` and `v` are `(n_kv_heads * head_dim)`.
///
/// # Panics
/// If the slot or a length does not fit the block.
pub fn kv_store(block: KvSliceMut<'_>, head_dim: usize, slot: usize, k: &[f32], v: &[f32]) {
    assert!(slot < KV_BLOCK, "slot {slot} of a block of {KV_BLOCK}");
    assert_eq!(k.len(), v.len(), "k and v have one shape");
    let n_kv_heads = k.len() / head_dim;
    match block {
        KvSliceMut::F32(block) => {
            KvSlice::F32(block).check(n_kv_heads, head_dim);
            store(block, head_dim, slot, k, v, |x| x);
        }
        KvSliceMut::F16(block) => {
            KvSlice::F16(block).check(n_kv_heads, head_dim);
            store(block, head_dim, slot, k, v, f16::from_f32);
        }
        KvSliceMut::Q8_0 { codes, scales } => {
            KvSlice::Q8_0 { codes, scales }.check(n_kv_heads, head_dim);
            let heads = codes
                .chunks_exact_mut(2 * KV_BLOCK * head_dim)
                .zip(scales.chunks_exact_mut(2 * KV_BLOCK * head_dim / Q8_0_BLOCK));
            let rows = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
            for ((codes, scales), (k, v)) in heads.zip(rows) {
                store_q8_0(codes, scales, slot, k, v);
            }
        }
    }
}

fn store<T>(
    block: &mut [T],
    head_dim: usize,
    slot: usize,
    k: &[f32],
    v: &[f32],
    narrow: impl Fn(f32) -> T,
) {
    let heads = block.chunks_exact_mut(2 * KV_BLOCK * head_dim);
    for ((head, k), v) in heads
        .zip(k.chunks_exact(head_dim))
        .zip(v.chunks_exact(head_dim))
    {
        let (keys, values) = head.split_at_mut(KV_BLOCK * head_dim);
        for (d, (k, v)) in k.iter().zip(v).enumerate() {
            keys[key_at(slot, d, head_dim)] = narrow(*k);
            values[value_at(slot, d, head_dim)] = narrow(*v);
        }
    }
}

/// Where element `d` of the key in `slot` is.
pub(crate) fn key_at(slot: usize, d: usize, head_dim: usize) -> usize {
    (slot / STRIPE * head_dim + d) * STRIPE + slot % STRIPE
}

/// Where the scale of element `d` of the key in `slot` is, in q8_0.
pub(crate) fn key_scale_at(slot: usize, d: usize, head_dim: usize) -> usize {
    key_at(slot, d / Q8_0_BLOCK, head_dim / Q8_0_BLOCK)
}

/// Where element `d` of the value in `slot` is.
pub(crate) fn value_at(slot: usize, d: usize, head_dim: usize) -> usize {
    let first = d / STRIPE * STRIPE;
    first * KV_BLOCK + slot * STRIPE.min(head_dim - first) + d % STRIPE
}

/// One head's key and value.
fn store_q8_0(codes: &mut [i8], scales: &mut [f16], slot: usize, k: &[f32], v: &[f32]) {
    let (head_dim, n_scales) = (k.len(), k.len() / Q8_0_BLOCK);
    let (k_codes, v_codes) = codes.split_at_mut(KV_BLOCK * head_dim);
    let (k_scales, v_scales) = scales.split_at_mut(KV_BLOCK * n_scales);
    let blocks = k.as_chunks::<Q8_0_BLOCK>().0.iter();
    for (b, (k, v)) in blocks.zip(v.as_chunks::<Q8_0_BLOCK>().0).enumerate() {
        let first = b * Q8_0_BLOCK;
        let (scale, codes) = quantize_q8_0(k);
        k_scales[key_scale_at(slot, first, head_dim)] = scale;
        for (d, code) in (first..).zip(codes) {
            k_codes[key_at(slot, d, head_dim)] = code;
        }
        let (scale, codes) = quantize_q8_0(v);
        let at = value_at(slot, first, head_dim);
        v_scales[at / Q8_0_BLOCK] = scale;
        v_codes[at..at + Q8_0_BLOCK].copy_from_slice(&codes);
    }
}

/// As activations are quantised (`isa/scalar/quantize.rs`), but the scale is rounded to f16 before codes are made with it.
fn quantize_q8_0(x: &[f32; Q8_0_BLOCK]) -> (f16, [i8; Q8_0_BLOCK]) {
    let (scale, codes) = codes_of(x, |scale| f16::from_f32(scale).to_f32());
    (f16::from_f32(scale), codes)
}

impl KvSlice<'_> {
    pub(crate) fn check(&self, n_kv_heads: usize, head_dim: usize) {
        let len = match self {
            KvSlice::F32(data) => data.len(),
            KvSlice::F16(data) => data.len(),
            KvSlice::Q8_0 { codes, scales } => {
                assert!(head_dim.is_multiple_of(Q8_0_BLOCK), "heads of {head_dim}");
                assert_eq!(scales.len(), KvType::n_scales(codes.len()), "scales");
                codes.len()
            }
        };
        let expected = KvType::block_elements(n_kv_heads, head_dim);
        assert_eq!(len, expected, "elements of a block");
    }
}

impl KvHead<'_> {
    /// Whether lengths are those of a head.
    pub(crate) fn fits(&self, head_dim: usize) -> bool {
        let (len, n_scales) = (KV_BLOCK * head_dim, KV_BLOCK * head_dim / Q8_0_BLOCK);
        match self {
            KvHead::F32 { k, v } => k.len() == len && v.len() == len,
            KvHead::F16 { k, v } => k.len() == len && v.len() == len,
            KvHead::Q8_0 {
                k,
                v,
                k_scales,
                v_scales,
            } => {
                head_dim.is_multiple_of(Q8_0_BLOCK)
                    && k.len() == len
                    && v.len() == len
                    && k_scales.len() == n_scales
                    && v_scales.len() == n_scales
            }
        }
    }

    /// Element `d` of the key in `slot`.
    pub(crate) fn key(&self, slot: usize, d: usize, head_dim: usize) -> f32 {
        let at = key_at(slot, d, head_dim);
        match self {
            KvHead::F32 { k, .. } => k[at],
            KvHead::F16 { k, .. } => k[at].to_f32(),
            KvHead::Q8_0 { k, k_scales, .. } => {
                f32::from(k[at]) * k_scales[key_scale_at(slot, d, head_dim)]
            }
        }
    }

    /// Element `d` of the value in `slot`.
    pub(crate) fn value(&self, slot: usize, d: usize, head_dim: usize) -> f32 {
        let at = value_at(slot, d, head_dim);
        match self {
            KvHead::F32 { v, .. } => v[at],
            KvHead::F16 { v, .. } => v[at].to_f32(),
            KvHead::Q8_0 { v, v_scales, .. } => f32::from(v[at]) * v_scales[at / Q8_0_BLOCK],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_is_within_half_a_step_and_shows_what_is_not_finite() {
        let x: [f32; Q8_0_BLOCK] = std::array::from_fn(|j| (j as f32 - 11.3) * 0.7);
        let (scale, codes) = quantize_q8_0(&x);
        let scale = scale.to_f32();
        for (x, code) in x.iter().zip(codes) {
            // The scale is rounded to 11 bits, so the largest may be cut off by up to 127 / 2048 of a step more.
            assert!((x - scale * f32::from(code)).abs() <= scale * 0.57);
        }
        assert_eq!(quantize_q8_0(&[1e-30; Q8_0_BLOCK]), (f16::ZERO, [0; 32]));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = x;
            x[3] = bad;
            assert!(quantize_q8_0(&x).0.is_nan());
        }
        assert!(
            quantize_q8_0(&[1e30; Q8_0_BLOCK]).0.is_infinite(),
            "0 times it is a NaN"
        );
    }
}
