//! What the bytes of a quantised block mean: codes, scales, minimums. Every kernel and the packer agree with this file.
//!
//! All types are seen through one window: [`Block32`], 32 consecutive weights `w = d * sub * code + m`.
//! A block of 256 elements is eight of them. Bytes are those of a GGUF row; packed tiles are unpacked to them first.

use half::f16;

use crate::weight::WeightType;

/// Elements of the window through which every quantised type is read.
pub(crate) const WINDOW: usize = 32;

/// 32 consecutive weights of one row: element j is `d * sub[j / 16] * codes[j] + m` in exact arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block32 {
    /// Integer codes with their offset taken off: -8..=7 for Q4_0, 0..=15 for Q4_1, -128..=127 for Q8_0.
    pub codes: [i8; WINDOW],
    pub d: f32,
    /// Integer sub-scales of the two halves: (1, 1) but for Q6_K.
    pub sub: [i8; 2],
    /// The constant added to every weight, with its sign, for the types that have one.
    pub m: Option<f32>,
}

/// Elements `32 * window ..` of one block of a quantised type. `block` holds exactly the block's bytes.
pub(crate) fn decode(ty: WeightType, block: &[u8], window: usize) -> Block32 {
    assert_eq!(block.len(), ty.block_bytes(), "a {} block", ty.name());
    assert!(
        window < ty.block_elements() / WINDOW,
        "window {window} of a {} block",
        ty.name()
    );
    match ty {
        WeightType::Q4_0 => plain(f16_at(block, 0), None, |j| nibble(&block[2..], j) - 8),
        WeightType::Q4_1 => plain(f16_at(block, 0), Some(f16_at(block, 2)), |j| {
            nibble(&block[4..], j)
        }),
        WeightType::Q5_0 => plain(f16_at(block, 0), None, |j| {
            nibble(&block[6..], j) + fifth_bit(&block[2..], j) - 16
        }),
        WeightType::Q5_1 => plain(f16_at(block, 0), Some(f16_at(block, 2)), |j| {
            nibble(&block[8..], j) + fifth_bit(&block[4..], j)
        }),
        WeightType::Q8_0 => plain(f16_at(block, 0), None, |j| block[2 + j] as i8),
        WeightType::Q4_K => {
            let (d, m) = six_bit_scales(block, window);
            plain(d, Some(m), |j| paired_nibble(&block[16..], window, j))
        }
        WeightType::Q5_K => {
            let (d, m) = six_bit_scales(block, window);
            let high = |j: usize| ((block[16 + j] >> window & 1) << 4) as i8;
            plain(d, Some(m), |j| {
                paired_nibble(&block[48..], window, j) + high(j)
            })
        }
        WeightType::Q6_K => decode_q6_k(block, window),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => {
            panic!("{} has no codes", ty.name())
        }
    }
}

fn plain(d: f32, m: Option<f32>, code: impl Fn(usize) -> i8) -> Block32 {
    Block32 {
        codes: std::array::from_fn(code),
        d,
        sub: [1, 1],
        m,
    }
}

/// Element j of 16 bytes that hold elements 0..16 in their low and 16..32 in their high nibbles.
fn nibble(bytes: &[u8], j: usize) -> i8 {
    (bytes[j % 16] >> (j / 16 * 4) & 15) as i8
}

/// Bit 4 of element j, from a little-endian 32-bit mask.
fn fifth_bit(mask: &[u8], j: usize) -> i8 {
    ((mask[j / 8] >> (j % 8) & 1) << 4) as i8
}

/// Element j of window `window`: each 32 bytes hold an even window in their low and the next one in their high nibbles.
fn paired_nibble(bytes: &[u8], window: usize, j: usize) -> i8 {
    (bytes[window / 2 * 32 + j] >> (window % 2 * 4) & 15) as i8
}

/// Scale and (negative) minimum of a window of Q4_K or Q5_K: two f16 factors and eight pairs of 6-bit integers in 12 bytes.
fn six_bit_scales(block: &[u8], window: usize) -> (f32, f32) {
    let bytes = &block[4..16];
    let (scale, min) = if window < 4 {
        (bytes[window] & 63, bytes[window + 4] & 63)
    } else {
        let low = bytes[window + 4];
        (
            low & 15 | bytes[window - 4] >> 6 << 4,
            low >> 4 | bytes[window] >> 6 << 4,
        )
    };
    (
        f16_at(block, 0) * f32::from(scale),
        -(f16_at(block, 2) * f32::from(min)),
    )
}

fn decode_q6_k(block: &[u8], window: usize) -> Block32 {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let (half, quarter) = (window / 4, window % 4);
    let code = |j: usize| {
        let nibble = low[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
        let top = high[half * 32 + j] >> (quarter * 2) & 3;
        (nibble | top << 4) as i8 - 32
    };
    let sub = [scales[window * 2] as i8, scales[window * 2 + 1] as i8];
    Block32 {
        codes: std::array::from_fn(code),
        d: f16_at(block, 208),
        sub,
        m: None,
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Widen row-major GGUF bytes to f32. `d * sub` is exact in f32; the product with the code and the sum with the minimum
/// are rounded separately, as the format's reference defines them.
///
/// # Panics
/// If `bytes` is not exactly `out.len()` elements of whole blocks.
pub fn dequantize(ty: WeightType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        ty.row_bytes(out.len()),
        Some(bytes.len()),
        "{} values of {}",
        out.len(),
        ty.name()
    );
    match ty {
        WeightType::F32 => widen(bytes, out, f32::from_le_bytes),
        WeightType::F16 => widen(bytes, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        WeightType::BF16 => widen(bytes, out, |b: [u8; 2]| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        _ => {
            let blocks = bytes.chunks_exact(ty.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(ty.block_elements())) {
                for (window, out) in out.chunks_exact_mut(WINDOW).enumerate() {
                    dequantize_window(&decode(ty, block, window), out);
                }
            }
        }
    }
}

fn dequantize_window(block: &Block32, out: &mut [f32]) {
    for (j, out) in out.iter_mut().enumerate() {
        let value = block.d * f32::from(block.sub[j / 16]) * f32::from(block.codes[j]);
        *out = block.m.map_or(value, |m| value + m);
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], to_f32: impl Fn([u8; N]) -> f32) {
    let (values, _) = bytes.as_chunks::<N>();
    for (value, out) in values.iter().zip(out) {
        *out = to_f32(*value);
    }
}
