//! Matrix products: rows in lanes, the weights of a window unpacked once for as many columns as the registers hold.
//!
//! A tile is read once from front to back, which the CPU foresees: measured on Zen 4 with huge pages, this reaches the read bandwidth
//! of the machine for one column. What counts is the order in which lines are touched first: when the parts of a Q6_K block were read
//! with jumps, one core got 5 GB/s instead of 25. Asking for weights ahead of use only took away from it.
//!
//! The bits are those of `scalar/matmul.rs`: one fused multiply-add chain per output, in order of k. How codes come out of a
//! packed tile is in `matmul/nibbles.rs` and `matmul/super_blocks.rs`, float weights in `matmul/float.rs`.

pub(super) mod float;
mod nibbles;
mod pairs;
mod super_blocks;

use std::marker::PhantomData;

use crate::isa::simd::{BOTH_HALVES, HIGH_HALF, Kernel, LOW_HALF, Simd};
use crate::matmul::{Inputs, Panel};
use crate::rows::{ACT_BLOCK, ActBlock, HALF_ZERO};
use crate::weight::WeightType;

/// Run the body for columns `0 .. N`, at most 16, as straight-line code: a compiler that makes a loop of it keeps the sums in memory.
macro_rules! for_each_column {
    ($n:ident, |$c:ident| $body:block) => {
        for_each_column!(@ $n, $c, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $n:ident, $c:ident, $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $c = $at;
            $body
        })*
    };
}

/// Most columns that take four windows together: their dot products must stay in registers.
const fn side_columns<S: Simd>() -> usize {
    if S::MANY_REGISTERS { 2 } else { 1 }
}

/// How to get at the codes and scales of a packed tile of one quantised type.
///
/// # Safety
/// Of every method: the CPU has the instructions of `S`, and `block` points to `LANES * ROW_BLOCK` readable bytes. Methods are
/// marked `#[inline(always)]`.
trait Codes {
    /// Bytes of one block of one row.
    const ROW_BLOCK: usize;
    /// Windows of 32 in a block.
    const WINDOWS: usize;
    /// Taken off each unsigned code.
    const ZERO: i32 = 0;
    const HAS_MIN: bool = false;
    /// Each half of a window has an integer sub-scale, and bytes of codes belong to two windows, one after the next one.
    const HAS_SUB: bool = false;
    /// Bits of a code: 4, 5 or 6 unsigned, or 8 signed.
    const BITS: u32;

    /// Scales of a block, unpacked once.
    type Scales<S: Simd>;

    unsafe fn scales<S: Simd>(block: *const u8) -> Self::Scales<S>;

    /// Scale of each row for one window. Windows and halves are constants, so that code for each is straight-line.
    unsafe fn d<S: Simd, const WINDOW: usize>(scales: &Self::Scales<S>) -> S::F;

    /// Minimum of each row, with its sign.
    #[inline(always)]
    unsafe fn m<S: Simd, const WINDOW: usize>(_scales: &Self::Scales<S>) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::splat(0.0) }
    }

    /// Sub-scale of each row for one half window.
    #[inline(always)]
    unsafe fn sub<S: Simd, const HALF: usize>(_block: *const u8, _window: usize) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::splat(1.0) }
    }

    /// Half a window: vector g holds elements `16 half + 4 g ..` of each row, one byte each.
    unsafe fn codes<S: Simd, const WINDOW: usize, const HALF: usize>(block: *const u8)
    -> [S::I; 4];

    /// The same of a window and the one after the next, whose codes are in the same bytes.
    #[inline(always)]
    unsafe fn codes_of_two<S: Simd, const HALF: usize>(
        _block: *const u8,
        _window: usize,
    ) -> [[S::I; 4]; 2] {
        unreachable!("a type without sub-scales")
    }

    /// Half a window's dot products, codes prepared.
    unsafe fn dot_half<S: Simd>(dot: S::Dot, codes: &[S::I; 4], acts: *const i8) -> S::Dot;
    /// The same of two columns.
    unsafe fn dot_half_pair<S: Simd>(
        dots: [S::Dot; 2],
        codes: &[S::I; 4],
        acts: [*const i8; 2],
    ) -> [S::Dot; 2];
    unsafe fn prepare<S: Simd>(codes: [S::I; 4]) -> [S::I; 4];
    unsafe fn finish<S: Simd>(dot: S::Dot, zero: i32, minus: *const i32) -> S::F;
}

/// The last four methods of [`Codes`], which are the same for every type but need its number of bits as a constant.
macro_rules! dots_of_bits {
    ($bits:expr) => {
        const BITS: u32 = $bits;

        #[inline(always)]
        unsafe fn dot_half<S: Simd>(dot: S::Dot, codes: &[S::I; 4], acts: *const i8) -> S::Dot {
            // SAFETY: as for the trait.
            unsafe { S::dot_half::<{ $bits }>(dot, codes, acts) }
        }

        #[inline(always)]
        unsafe fn dot_half_pair<S: Simd>(
            dots: [S::Dot; 2],
            codes: &[S::I; 4],
            acts: [*const i8; 2],
        ) -> [S::Dot; 2] {
            // SAFETY: as for the trait.
            unsafe { S::dot_half_pair::<{ $bits }>(dots, codes, acts) }
        }

        #[inline(always)]
        unsafe fn prepare<S: Simd>(codes: [S::I; 4]) -> [S::I; 4] {
            // SAFETY: as for the trait.
            unsafe { S::prepare::<{ $bits }>(codes) }
        }

        #[inline(always)]
        unsafe fn finish<S: Simd>(dot: S::Dot, zero: i32, minus: *const i32) -> S::F {
            // SAFETY: as for the trait.
            unsafe { S::dot_finish::<{ $bits }>(dot, zero, minus) }
        }
    };
}
use dots_of_bits;

/// What is taken off codes as they are multiplied, counted in what [`minus`] points to.
#[inline(always)]
fn zero_point<S: Simd, T: Codes + ?Sized, const HALF: usize>() -> i32 {
    const { assert!(!T::HAS_SUB || T::ZERO == HALF_ZERO) };
    match HALF {
        BOTH_HALVES => S::zero_point(T::BITS, T::ZERO),
        _ => S::zero_point(T::BITS, T::ZERO) / HALF_ZERO,
    }
}

/// `N` columns are multiplied two at a time.
const fn paired<S: Simd, const N: usize>() -> bool {
    N.is_multiple_of(2) && N >= S::PAIRS_FROM
}

/// All outputs of a panel.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn panel<S: Simd>(panel: &Panel<'_>) {
    assert_eq!(panel.tile_rows, S::LANES, "rows of a tile");
    assert_eq!(
        Some(panel.tile_bytes()),
        panel.ty.row_bytes(panel.k).map(|row| row * S::LANES),
        "bytes of a tile"
    );
    // SAFETY: the CPU has the instructions, as the caller promises; shapes were checked just now.
    unsafe {
        match (panel.ty, panel.inputs) {
            (WeightType::F32, Inputs::Float(x)) => float::panel::<S, float::F32>(panel, x),
            (WeightType::F16, Inputs::Float(x)) => float::panel::<S, float::F16>(panel, x),
            (WeightType::BF16, Inputs::Float(x)) => float::panel::<S, float::Bf16>(panel, x),
            (WeightType::Q4_0, Inputs::Quantized(acts)) => {
                quantized::<S, nibbles::Q4_0>(panel, acts)
            }
            (WeightType::Q4_1, Inputs::Quantized(acts)) => {
                quantized::<S, nibbles::Q4_1>(panel, acts)
            }
            (WeightType::Q5_0, Inputs::Quantized(acts)) => {
                quantized::<S, nibbles::Q5_0>(panel, acts)
            }
            (WeightType::Q5_1, Inputs::Quantized(acts)) => {
                quantized::<S, nibbles::Q5_1>(panel, acts)
            }
            (WeightType::Q8_0, Inputs::Quantized(acts)) => {
                quantized::<S, nibbles::Q8_0>(panel, acts)
            }
            (WeightType::Q4_K, Inputs::Quantized(acts)) => {
                quantized::<S, super_blocks::Q4_K>(panel, acts)
            }
            (WeightType::Q5_K, Inputs::Quantized(acts)) => {
                quantized::<S, super_blocks::Q5_K>(panel, acts)
            }
            (WeightType::Q6_K, Inputs::Quantized(acts)) => {
                quantized::<S, super_blocks::Q6_K>(panel, acts)
            }
            (ty, _) => panic!("the other kind of input for a {} matrix", ty.name()),
        }
    }
}

/// Every tile of the panel by every column.
///
/// # Safety
/// The CPU has the instructions; `acts` is `n_cols` columns of `k / 32` blocks, the tiles are of type `T`.
unsafe fn quantized<S: Simd, T: Codes>(panel: &Panel<'_>, acts: &[ActBlock]) {
    assert_eq!(acts.len(), panel.n_cols * (panel.k / ACT_BLOCK));
    for (index, tile) in panel.tiles.chunks_exact(panel.tile_bytes()).enumerate() {
        let mut col = 0;
        while col < panel.n_cols {
            let job = Tile {
                tile,
                acts: &acts[col..],
                act_stride: panel.n_cols,
                out: Columns::of(panel, index, col),
            };
            // SAFETY: as the caller promises; a group never reaches beyond the last column.
            col += unsafe { columns::<S, T>(panel.n_cols - col, job) };
        }
    }
}

/// As many of the `left` columns as one unpacking of the weights serves: with their sums they fill the registers.
#[inline(always)]
unsafe fn columns<S: Simd, T: Codes>(left: usize, job: Tile<'_>) -> usize {
    // SAFETY: as the caller promises.
    unsafe {
        match left {
            16.. if S::MANY_REGISTERS => job.run::<S, T, 16>(),
            8.. if S::MANY_REGISTERS || paired::<S, 8>() => job.run::<S, T, 8>(),
            4.. => job.run::<S, T, 4>(),
            3 => job.run::<S, T, 3>(),
            2 => job.run::<S, T, 2>(),
            _ => job.run::<S, T, 1>(),
        }
    }
}

/// One tile by some columns.
struct Tile<'a> {
    tile: &'a [u8],
    /// Block of column c and window w is at `w * act_stride + c`.
    acts: &'a [ActBlock],
    act_stride: usize,
    out: Columns<'a>,
}

/// Where a tile's outputs go, from some column on.
#[derive(Clone, Copy)]
struct Columns<'a> {
    panel: &'a Panel<'a>,
    tile: usize,
    first: usize,
}

impl<'a> Columns<'a> {
    fn of(panel: &'a Panel<'a>, tile: usize, first: usize) -> Self {
        Columns { panel, tile, first }
    }

    /// Column `c`, counted from the first.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, c: usize, sums: S::F) {
        let out = self.panel.out_of_tile(self.tile, self.first + c);
        // SAFETY: a tile has as many outputs as a vector lanes, which `panel` has checked.
        unsafe {
            let sums = match self.panel.out.adds {
                true => S::add(S::load(out), sums),
                false => sums,
            };
            S::store(out, sums);
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, T: Codes, const N: usize>(self) -> usize {
        // SAFETY: as the caller promises.
        unsafe { S::vectorize(ByColumns::<T, N>(self, PhantomData)) };
        N
    }
}

/// One tile by the first `N` columns.
struct ByColumns<'a, T, const N: usize>(Tile<'a>, PhantomData<T>);

impl<S: Simd, T: Codes, const N: usize> Kernel<S> for ByColumns<'_, T, N> {
    #[inline(always)]
    unsafe fn run(self) {
        let Tile {
            tile,
            acts,
            act_stride,
            out,
        } = self.0;
        let tile_block = S::LANES * T::ROW_BLOCK;
        let n_windows = tile.len() / tile_block * T::WINDOWS;
        assert!(n_windows == 0 || acts.len() >= (n_windows - 1) * act_stride + N);
        let mut acts = acts.as_ptr();
        // SAFETY: blocks are whole and each column has as many windows as the tile, by the checks above.
        unsafe {
            let mut acc = [S::splat(0.0); N];
            for block in tile.chunks_exact(tile_block) {
                let block = block.as_ptr();
                let scales = T::scales::<S>(block);
                macro_rules! windows {
                    ($($window:literal)*) => {
                        $(if $window < T::WINDOWS {
                            let acts = acts.wrapping_add($window * act_stride);
                            add_window::<S, T, N, $window>(block, &scales, acts, &mut acc);
                        })*
                    };
                }
                if const { T::HAS_SUB && N <= side_columns::<S>() } {
                    let d = T::d::<S, 0>(&scales);
                    add_side::<S, T, N, 0>(block, d, acts, act_stride, &mut acc);
                    add_side::<S, T, N, 4>(block, d, acts, act_stride, &mut acc);
                } else {
                    windows!(0 1 2 3 4 5 6 7);
                }
                acts = acts.wrapping_add(T::WINDOWS * act_stride);
            }
            for_each_column!(N, |c| {
                out.store::<S>(c, acc[c]);
            });
        }
    }
}

/// Steps 1 and 2 of the law for one window: `acts` are the blocks of `N` columns.
#[inline(always)]
unsafe fn add_window<S: Simd, T: Codes, const N: usize, const WINDOW: usize>(
    block: *const u8,
    scales: &T::Scales<S>,
    acts: *const ActBlock,
    acc: &mut [S::F; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        if T::HAS_MIN {
            let m = T::m::<S, WINDOW>(scales);
            for_each_column!(N, |c| {
                acc[c] = S::fma(m, S::splat((*acts.add(c)).s), acc[c]);
            });
        }
        let d = T::d::<S, WINDOW>(scales);
        if T::HAS_SUB {
            add_half::<S, T, N, WINDOW, LOW_HALF>(block, d, acts, acc);
            add_half::<S, T, N, WINDOW, HIGH_HALF>(block, d, acts, acc);
        } else if const { paired::<S, N>() } {
            pairs::add_whole::<S, T, N, WINDOW>(block, d, acts, acc);
        } else if S::MANY_REGISTERS {
            let low = T::prepare::<S>(T::codes::<S, WINDOW, LOW_HALF>(block));
            let high = T::prepare::<S>(T::codes::<S, WINDOW, HIGH_HALF>(block));
            for_each_column!(N, |c| {
                let act = acts.add(c);
                let dot =
                    S::dot_start(zero_point::<S, T, BOTH_HALVES>(), minus::<BOTH_HALVES>(act));
                let codes = (&raw const (*act).codes).cast::<i8>();
                let dot = T::dot_half::<S>(dot, &low, codes);
                let dot = T::dot_half::<S>(dot, &high, codes.add(16));
                acc[c] = add_scaled::<S, T, BOTH_HALVES>(acc[c], d, act, dot);
            });
        } else {
            // Both halves' codes would not fit beside the sums.
            let zero = zero_point::<S, T, BOTH_HALVES>();
            let low = T::prepare::<S>(T::codes::<S, WINDOW, LOW_HALF>(block));
            let mut dots = [S::dot_start(zero, minus::<BOTH_HALVES>(acts)); N];
            for_each_column!(N, |c| {
                let act = acts.add(c);
                let start = S::dot_start(zero, minus::<BOTH_HALVES>(act));
                dots[c] = T::dot_half::<S>(start, &low, (&raw const (*act).codes).cast());
            });
            let high = T::prepare::<S>(T::codes::<S, WINDOW, HIGH_HALF>(block));
            for_each_column!(N, |c| {
                let act = acts.add(c);
                let codes = (&raw const (*act).codes).cast::<i8>().add(16);
                let dot = T::dot_half::<S>(dots[c], &high, codes);
                acc[c] = add_scaled::<S, T, BOTH_HALVES>(acc[c], d, act, dot);
            });
        }
    }
}

/// One half of a window whose halves have scales of their own.
#[inline(always)]
unsafe fn add_half<S: Simd, T: Codes, const N: usize, const WINDOW: usize, const HALF: usize>(
    block: *const u8,
    d: S::F,
    acts: *const ActBlock,
    acc: &mut [S::F; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let d = S::mul(d, T::sub::<S, HALF>(block, WINDOW));
        if const { paired::<S, N>() } {
            return pairs::add_half::<S, T, N, WINDOW, HALF>(block, d, acts, acc);
        }
        let codes = T::prepare::<S>(T::codes::<S, WINDOW, HALF>(block));
        for_each_column!(N, |c| {
            let act = acts.add(c);
            let dot = half_dot::<S, T, HALF>(&codes, act);
            acc[c] = add_scaled::<S, T, HALF>(acc[c], d, act, dot);
        });
    }
}

/// The dot product of half a window on its own, codes prepared.
#[inline(always)]
unsafe fn half_dot<S: Simd, T: Codes, const HALF: usize>(
    codes: &[S::I; 4],
    act: *const ActBlock,
) -> S::Dot {
    // SAFETY: as the caller promises.
    unsafe {
        let dot = S::dot_start(zero_point::<S, T, HALF>(), minus::<HALF>(act));
        let acts = (&raw const (*act).codes).cast::<i8>().add(16 * HALF);
        T::dot_half::<S>(dot, codes, acts)
    }
}

/// The four windows from `FIRST` on, all dot products before the first sum: each byte is unpacked once.
#[inline(always)]
unsafe fn add_side<S: Simd, T: Codes, const N: usize, const FIRST: usize>(
    block: *const u8,
    d: S::F,
    acts: *const ActBlock,
    act_stride: usize,
    acc: &mut [S::F; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let acts = [
            acts.wrapping_add(FIRST * act_stride),
            acts.wrapping_add((FIRST + 1) * act_stride),
            acts.wrapping_add((FIRST + 2) * act_stride),
            acts.wrapping_add((FIRST + 3) * act_stride),
        ];
        let (even, odd) = ([acts[0], acts[2]], [acts[1], acts[3]]);
        // In the order in which their codes lie.
        let [low_0, low_2] = dots_of_two::<S, T, N, LOW_HALF>(block, FIRST, even);
        let [high_0, high_2] = dots_of_two::<S, T, N, HIGH_HALF>(block, FIRST, even);
        let [low_1, low_3] = dots_of_two::<S, T, N, LOW_HALF>(block, FIRST + 1, odd);
        let [high_1, high_3] = dots_of_two::<S, T, N, HIGH_HALF>(block, FIRST + 1, odd);
        let dots = [
            (low_0, high_0),
            (low_1, high_1),
            (low_2, high_2),
            (low_3, high_3),
        ];
        for i in 0..4 {
            let (low, high) = dots[i];
            let d_low = S::mul(d, T::sub::<S, LOW_HALF>(block, FIRST + i));
            let d_high = S::mul(d, T::sub::<S, HIGH_HALF>(block, FIRST + i));
            for_each_column!(N, |c| {
                let act = acts[i].add(c);
                acc[c] = add_scaled::<S, T, LOW_HALF>(acc[c], d_low, act, low[c]);
                acc[c] = add_scaled::<S, T, HIGH_HALF>(acc[c], d_high, act, high[c]);
            });
        }
    }
}

/// Dot products of half of `window` and of the window after the next.
#[inline(always)]
unsafe fn dots_of_two<S: Simd, T: Codes, const N: usize, const HALF: usize>(
    block: *const u8,
    window: usize,
    acts: [*const ActBlock; 2],
) -> [[S::Dot; N]; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let [first, second] = T::codes_of_two::<S, HALF>(block, window);
        let (first, second) = (T::prepare::<S>(first), T::prepare::<S>(second));
        let start = S::dot_start(zero_point::<S, T, HALF>(), minus::<HALF>(acts[0]));
        let mut dots = [[start; N]; 2];
        for_each_column!(N, |c| {
            dots[0][c] = half_dot::<S, T, HALF>(&first, acts[0].add(c));
            dots[1][c] = half_dot::<S, T, HALF>(&second, acts[1].add(c));
        });
        dots
    }
}

/// Minus the sum of both halves' codes, or [`HALF_ZERO`] times that of one.
#[inline(always)]
unsafe fn minus<const HALF: usize>(act: *const ActBlock) -> *const i32 {
    const { assert!(HALF <= BOTH_HALVES) };
    // SAFETY: as the caller promises, `act` points to a block.
    unsafe { (&raw const (*act).minus).cast::<i32>().add(HALF) }
}

/// `fma(d_w d_a, idot, acc)`.
#[inline(always)]
unsafe fn add_scaled<S: Simd, T: Codes, const HALF: usize>(
    acc: S::F,
    d_w: S::F,
    act: *const ActBlock,
    dot: S::Dot,
) -> S::F {
    // SAFETY: as the caller promises.
    unsafe {
        let idot = T::finish::<S>(dot, zero_point::<S, T, HALF>(), minus::<HALF>(act));
        S::fma(S::mul(d_w, S::splat((*act).d)), idot, acc)
    }
}
