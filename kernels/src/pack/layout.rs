//! The order of bytes in a packed tile, for every type in one table.
//!
//! A block of a tile is the rows' blocks cut into units and interleaved: unit 0 of each row, unit 1 of each row, …
//! Units are the f16 scale, one byte of sub-scales, or four bytes of codes, so that a vector of codes holds the
//! same four positions of k for every row, ready for a multiply-add of bytes. A nibble type's low and high
//! nibbles hold k-groups a half block (or a window) apart, exactly as they do in a GGUF block, so unpacking is a shift
//! and a mask. The fifth bits of Q5_0 and Q5_1 are the one thing that is not moved by bytes: see [`move_bits`].

use crate::weight::WeightType;

/// The largest block of any type (Q6_K).
pub(crate) const MAX_BLOCK_BYTES: usize = 210;

/// `count` units of `unit` bytes each. Sections are listed in the order of a packed block.
struct Section {
    unit: usize,
    count: usize,
    /// Where the section begins in the GGUF block.
    from: usize,
    /// The four bytes of a unit are a mask of 32 fifth bits.
    is_mask: bool,
}

const fn units(unit: usize, count: usize, from: usize) -> Section {
    Section {
        unit,
        count,
        from,
        is_mask: false,
    }
}

/// Two bytes of scale or minimum.
const fn scale(from: usize) -> Section {
    units(2, 1, from)
}

/// 32 codes of one bit.
const fn mask(from: usize) -> Section {
    Section {
        unit: 4,
        count: 1,
        from,
        is_mask: true,
    }
}

/// Q6_K alone is not in the order of its GGUF block but in that of its use: memory is fastest when it is read from front to back.
fn sections(ty: WeightType) -> &'static [Section] {
    match ty {
        WeightType::F32 => const { &[units(4, 1, 0)] },
        WeightType::F16 | WeightType::BF16 => const { &[units(2, 1, 0)] },
        WeightType::Q4_0 => const { &[scale(0), units(4, 4, 2)] },
        WeightType::Q4_1 => const { &[scale(0), scale(2), units(4, 4, 4)] },
        WeightType::Q5_0 => const { &[scale(0), mask(2), units(4, 4, 6)] },
        WeightType::Q5_1 => const { &[scale(0), scale(2), mask(4), units(4, 4, 8)] },
        WeightType::Q8_0 => const { &[scale(0), units(4, 8, 2)] },
        WeightType::Q4_K => const { &[scale(0), scale(2), units(1, 12, 4), units(4, 32, 16)] },
        WeightType::Q5_K => {
            const {
                &[
                    scale(0),
                    scale(2),
                    units(1, 12, 4),
                    units(4, 8, 16),
                    units(4, 32, 48),
                ]
            }
        }
        WeightType::Q6_K => {
            const {
                &[
                    scale(208),
                    units(1, 16, 192),
                    units(4, 4, 0),
                    units(4, 4, 128),
                    units(4, 4, 16),
                    units(4, 4, 144),
                    units(4, 8, 32),
                    units(4, 4, 64),
                    units(4, 4, 160),
                    units(4, 4, 80),
                    units(4, 4, 176),
                    units(4, 8, 96),
                ]
            }
        }
    }
}

/// Interleave up to `tile_rows` rows of GGUF bytes into a tile of zeros; rows that are missing stay zero.
pub(super) fn interleave(
    ty: WeightType,
    tile_rows: usize,
    rows: &[u8],
    row_bytes: usize,
    tile: &mut [u8],
) {
    let block_bytes = ty.block_bytes();
    for (index, block) in tile.chunks_exact_mut(tile_rows * block_bytes).enumerate() {
        let mut rest = block;
        for section in sections(ty) {
            let len = section.unit * section.count;
            let (units, tail) = rest.split_at_mut(len * tile_rows);
            rest = tail;
            let from = index * block_bytes + section.from;
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                let bytes = &bytes[from..from + len];
                match section.unit {
                    1 => scatter::<1>(bytes, units, row, tile_rows),
                    2 => scatter::<2>(bytes, units, row, tile_rows),
                    _ => scatter::<4>(bytes, units, row, tile_rows),
                }
            }
            if section.is_mask {
                let masks = units.as_chunks_mut::<4>().0;
                masks
                    .iter_mut()
                    .for_each(|mask| move_bits(mask, |g, b| (4 * g + b, 8 * b + g)));
            }
        }
    }
}

/// Put units of `N` bytes to every `stride`-th place from `first`.
#[inline]
fn scatter<const N: usize>(bytes: &[u8], places: &mut [u8], first: usize, stride: usize) {
    let places = places.as_chunks_mut::<N>().0.iter_mut();
    let units = bytes.as_chunks::<N>().0;
    for (place, unit) in places.skip(first).step_by(stride).zip(units) {
        *place = *unit;
    }
}

/// Read one row's block back from a block of a tile.
pub(crate) fn extract_block(
    ty: WeightType,
    tile_rows: usize,
    tile_block: &[u8],
    row: usize,
    block: &mut [u8],
) {
    for_each_unit(ty, tile_rows, row, |section, at, place| {
        let unit = &mut block[at..at + section.unit];
        copy_unit(&tile_block[place..place + section.unit], unit);
        if section.is_mask {
            move_bits(unit, |g, b| (8 * b + g, 4 * g + b));
        }
    });
}

/// Each unit of a block: its section, where it is in the GGUF block, and where row `row` has it in a block of a tile.
#[inline]
fn for_each_unit(
    ty: WeightType,
    tile_rows: usize,
    row: usize,
    mut visit: impl FnMut(&Section, usize, usize),
) {
    let mut packed = 0;
    for section in sections(ty) {
        for i in 0..section.count {
            let from = section.from + i * section.unit;
            visit(section, from, packed * tile_rows + row * section.unit);
            packed += section.unit;
        }
    }
}

/// A copy whose length the compiler sees.
#[inline]
fn copy_unit(from: &[u8], to: &mut [u8]) {
    match from.len() {
        4 => to[..4].copy_from_slice(&from[..4]),
        2 => to[..2].copy_from_slice(&from[..2]),
        _ => to.copy_from_slice(from),
    }
}

/// Move the bits of a little-endian 32-bit mask: `path` gives from where and to where for each k-group g and byte b.
/// Packed, bit `4 g + b` is bit g of byte b, so that the byte beside code 4 g + b of a load has its fifth bit at g.
fn move_bits(mask: &mut [u8], path: impl Fn(usize, usize) -> (usize, usize)) {
    let bits = mask
        .iter()
        .rev()
        .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut moved = 0u32;
    for (from, to) in (0..32).map(|i| path(i / 4, i % 4)) {
        moved |= (bits >> from & 1) << to;
    }
    mask.copy_from_slice(&moved.to_le_bytes());
}
