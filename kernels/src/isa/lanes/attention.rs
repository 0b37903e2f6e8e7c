//! Attention of query rows over one block. Scores have positions in lanes, sums of values have dimensions in lanes; up to
//! six rows share what is loaded of K and V. The law is in `scalar/attention.rs`.

use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use super::elementwise::softcap_lanes;
use super::exp::exp;
use super::matmul::float::{F16, F32, Widen};
use crate::attention::{
    BlockArgs, KV_BLOCK, KvHead, Q8_0_BLOCK, STRIPE, key_at, key_scale_at, value_at,
};
use crate::isa::scalar;
use crate::isa::simd::{Kernel, Simd};

/// Rows that share loads: with two vectors each (four, where there are 32 registers) their sums, the loaded vectors and a
/// factor fill the registers. One or two rows take four vectors each, to have enough independent sums in flight.
const MAX_ROWS: usize = 6;

/// Scores of one row over a block.
type Scores = [f32; KV_BLOCK];

/// How to get at the keys and values of one head as f32.
///
/// # Safety
/// Of every method: the CPU has the instructions of `S`, and the slots, dimensions and vectors after them lie within the head and in
/// one stripe. Methods are marked `#[inline(always)]`.
trait Cache: Copy {
    /// Scales of the keys of `N` vectors of slots, for 32 dimensions from `d`, a multiple of 32.
    #[inline(always)]
    unsafe fn key_scales<S: Simd, const N: usize>(
        self,
        _slot: usize,
        _d: usize,
        _head_dim: usize,
    ) -> [S::F; N] {
        // SAFETY: as the caller promises.
        unsafe { [S::splat(1.0); N] }
    }

    /// Element `d` of the keys in `N` vectors of slots from `slot`.
    unsafe fn keys<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
        scales: [S::F; N],
    ) -> [S::F; N];

    /// `N` vectors of elements from `d` of the value in `slot`. `d` is a multiple of `LANES`.
    unsafe fn values<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
    ) -> [S::F; N];
}

/// Floats that are widened as they are loaded.
#[derive(Clone, Copy)]
struct Plain<W> {
    k: *const u8,
    v: *const u8,
    widen: PhantomData<W>,
}

impl<W> Plain<W> {
    fn new<T>(k: &[T], v: &[T]) -> Plain<W> {
        Plain {
            k: k.as_ptr().cast(),
            v: v.as_ptr().cast(),
            widen: PhantomData,
        }
    }
}

/// `(k, v, k_scales, v_scales)`
#[derive(Clone, Copy)]
struct Q8_0(*const i8, *const i8, *const f32, *const f32);

/// `$n` vectors of lanes, the one number `$i` being `$load`.
macro_rules! vectors {
    ($n:ident, |$i:ident| $load:expr) => {{
        let mut vectors = [S::splat(0.0); $n];
        for ($i, vector) in vectors.iter_mut().enumerate() {
            *vector = $load;
        }
        vectors
    }};
}

impl<W: Widen> Cache for Plain<W> {
    #[inline(always)]
    unsafe fn keys<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
        _scales: [S::F; N],
    ) -> [S::F; N] {
        // SAFETY: as for the trait.
        unsafe {
            let from = self.k.add(key_at(slot, d, head_dim) * W::BYTES);
            vectors!(N, |i| W::load::<S>(from.add(i * S::LANES * W::BYTES)))
        }
    }

    #[inline(always)]
    unsafe fn values<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
    ) -> [S::F; N] {
        // SAFETY: as for the trait.
        unsafe {
            let from = self.v.add(value_at(slot, d, head_dim) * W::BYTES);
            vectors!(N, |i| W::load::<S>(from.add(i * S::LANES * W::BYTES)))
        }
    }
}

impl Cache for Q8_0 {
    #[inline(always)]
    unsafe fn key_scales<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
    ) -> [S::F; N] {
        // SAFETY: as for the trait.
        unsafe {
            let from = self.2.add(key_scale_at(slot, d, head_dim));
            vectors!(N, |i| S::load(from.add(i * S::LANES)))
        }
    }

    #[inline(always)]
    unsafe fn keys<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
        scales: [S::F; N],
    ) -> [S::F; N] {
        // SAFETY: as for the trait.
        unsafe {
            let from = self.0.add(key_at(slot, d, head_dim));
            vectors!(N, |i| S::mul(
                S::load_i8(from.add(i * S::LANES).cast()),
                scales[i]
            ))
        }
    }

    #[inline(always)]
    unsafe fn values<S: Simd, const N: usize>(
        self,
        slot: usize,
        d: usize,
        head_dim: usize,
    ) -> [S::F; N] {
        // SAFETY: as for the trait.
        unsafe {
            let at = value_at(slot, d, head_dim);
            vectors!(N, |i| {
                let at = at + i * S::LANES;
                let scale = S::splat(*self.3.add(at / Q8_0_BLOCK));
                S::mul(S::load_i8(self.1.add(at).cast()), scale)
            })
        }
    }
}

/// Compute each row's state `[m, l, acc]` over one block. `scores` is `(n_rows, 128)`, `states` is fresh.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn attend_block<S: Simd>(
    args: &BlockArgs<'_>,
    scores: &mut [f32],
    states: &mut [f32],
) {
    let (dim, n_rows) = (args.head_dim, args.live.len());
    assert!(args.kv.fits(dim) && args.q.len() == n_rows * dim);
    assert!(scores.len() == n_rows * KV_BLOCK && states.len() == n_rows * (2 + dim));
    assert!(args.live.iter().all(|live| live.end <= KV_BLOCK));
    let scores = scores.as_chunks_mut::<KV_BLOCK>().0;
    let rows = args
        .q
        .chunks(MAX_ROWS * dim)
        .zip(args.live.chunks(MAX_ROWS))
        .zip(scores.chunks_mut(MAX_ROWS));
    for (((q, live), scores), states) in rows.zip(states.chunks_mut(MAX_ROWS * (2 + dim))) {
        let rows = Rows {
            args,
            q,
            live,
            scores,
            states,
        };
        // SAFETY: the CPU has the instructions; the shapes were checked above.
        unsafe {
            match args.kv {
                KvHead::F32 { k, v } => rows.run::<S, _>(Plain::<F32>::new(k, v)),
                KvHead::F16 { k, v } => rows.run::<S, _>(Plain::<F16>::new(k, v)),
                KvHead::Q8_0 {
                    k,
                    v,
                    k_scales,
                    v_scales,
                } => rows.run::<S, _>(Q8_0(
                    k.as_ptr(),
                    v.as_ptr(),
                    k_scales.as_ptr(),
                    v_scales.as_ptr(),
                )),
            }
        }
    }
}

/// Rows that are computed together.
struct Rows<'a> {
    args: &'a BlockArgs<'a>,
    q: &'a [f32],
    live: &'a [Range<usize>],
    scores: &'a mut [Scores],
    states: &'a mut [f32],
}

struct Few<'a, C, const R: usize>(Rows<'a>, C);
struct Many<'a, C, const R: usize>(Rows<'a>, C);

impl<S: Simd, C: Cache, const R: usize> Kernel<S> for Few<'_, C, R> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: as the caller promises.
        unsafe { self.0.attend::<S, C, R, 4>(self.1) }
    }
}

impl<S: Simd, C: Cache, const R: usize> Kernel<S> for Many<'_, C, R> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: as the caller promises.
        unsafe {
            match S::MANY_REGISTERS {
                true => self.0.attend::<S, C, R, 4>(self.1),
                false => self.0.attend::<S, C, R, 2>(self.1),
            }
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, C: Cache>(self, cache: C) {
        // SAFETY: as the caller promises.
        unsafe {
            match self.live.len() {
                1 => S::vectorize(Few::<C, 1>(self, cache)),
                2 => S::vectorize(Few::<C, 2>(self, cache)),
                3 => S::vectorize(Many::<C, 3>(self, cache)),
                4 => S::vectorize(Many::<C, 4>(self, cache)),
                5 => S::vectorize(Many::<C, 5>(self, cache)),
                _ => S::vectorize(Many::<C, MAX_ROWS>(self, cache)),
            }
        }
    }

    /// `R` rows against the block, `N` vectors at a time.
    #[inline(always)]
    unsafe fn attend<S: Simd, C: Cache, const R: usize, const N: usize>(self, cache: C) {
        let Rows {
            args,
            q,
            live,
            scores,
            states,
        } = self;
        let seen = live.iter().filter(|live| !live.is_empty());
        let Some((first, end)) = seen
            .map(|live| (live.start, live.end))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        else {
            return;
        };
        let step = N * S::LANES;
        const { assert!(STRIPE.is_multiple_of(N * S::LANES)) };
        for slot in (first / step * step..end).step_by(step) {
            // SAFETY: as the caller promises; `slot` and those of its vectors lie in the block.
            unsafe { score_slots::<S, C, R, N>(args, cache, q, slot, scores) };
        }
        for ((live, scores), state) in live
            .iter()
            .zip(scores.iter_mut())
            .zip(states.chunks_exact_mut(2 + args.head_dim))
        {
            if !live.is_empty() {
                // SAFETY: as the caller promises; live slots lie in the block.
                [state[0], state[1]] = unsafe { weigh::<S>(scores, live) };
            }
        }
        // SAFETY: as the caller promises.
        unsafe { add_values::<S, C, R, N>(args, cache, live, scores, states) };
    }
}

/// Scores of `R` rows for the slots of `N` vectors.
#[inline(always)]
unsafe fn score_slots<S: Simd, C: Cache, const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    cache: C,
    q: &[f32],
    slot: usize,
    scores: &mut [Scores],
) {
    // SAFETY: row d of K has 128 positions, `q` has `R` rows of `head_dim`; `slot` and those of `N` vectors are in the block.
    unsafe {
        let mut dots = [[S::splat(0.0); N]; R];
        for first in (0..args.head_dim).step_by(Q8_0_BLOCK) {
            let scales = cache.key_scales::<S, N>(slot, first, args.head_dim);
            for d in first..args.head_dim.min(first + Q8_0_BLOCK) {
                let keys = cache.keys::<S, N>(slot, d, args.head_dim, scales);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let q = S::splat(*q.as_ptr().add(r * args.head_dim + d));
                    for (dot, keys) in dots.iter_mut().zip(keys) {
                        *dot = S::fma(q, keys, *dot);
                    }
                }
            }
        }
        for (dots, scores) in dots.into_iter().zip(scores) {
            for (i, dot) in dots.into_iter().enumerate() {
                let score = S::mul(dot, S::splat(args.scale));
                let score = match args.softcap {
                    Some(cap) => softcap_lanes::<S>(score, cap),
                    None => score,
                };
                S::store(scores.as_mut_ptr().add(slot + i * S::LANES), score);
            }
        }
    }
}

/// Turn the live scores of a row into weights, the others into zeros; returns the largest score and the sum of weights.
#[inline(always)]
unsafe fn weigh<S: Simd>(scores: &mut Scores, live: &Range<usize>) -> [f32; 2] {
    let live_vectors = live.start / S::LANES..live.end.div_ceil(S::LANES);
    let at = |i: usize| (i * S::LANES) as i32;
    let (start, end) = (live.start as i32, live.end as i32);
    let place = scores.as_mut_ptr();
    // SAFETY: as the caller promises; the vectors lie in the block.
    unsafe {
        let lowest = S::splat(f32::NEG_INFINITY);
        let mut max = lowest;
        for i in live_vectors.clone() {
            let mask = S::lanes_between(start - at(i), end - at(i));
            let scores = S::load(place.add(i * S::LANES));
            max = S::max(S::select(mask, scores, lowest), max);
        }
        let mut lanes = [f32::NEG_INFINITY; 16];
        S::store(lanes.as_mut_ptr(), max);
        let m = lanes.iter().fold(
            f32::NEG_INFINITY,
            |m, lane| if *lane > m { *lane } else { m },
        );
        let mut sums = [S::splat(0.0); 2];
        let n_sums = 16 / S::LANES;
        for i in live_vectors {
            let mask = S::lanes_between(start - at(i), end - at(i));
            let p = exp::<S>(S::sub(S::load(place.add(i * S::LANES)), S::splat(m)));
            let p = S::select(mask, p, S::splat(0.0));
            sums[i % n_sums] = S::add(sums[i % n_sums], p);
            S::store(place.add(i * S::LANES), p);
        }
        [m, S::sum_16(sums)]
    }
}

/// `acc[d] = fma(p, v[d], acc[d])` over each row's live slots in order: those that all rows see together, the others alone.
#[inline(always)]
unsafe fn add_values<S: Simd, C: Cache, const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    cache: C,
    live: &[Range<usize>],
    scores: &[Scores],
    states: &mut [f32],
) {
    let dim = args.head_dim;
    let first = live.iter().map(|live| live.start).max().unwrap_or(0);
    let end = live.iter().map(|live| live.end).min().unwrap_or(0);
    let shared = if first < end { first..end } else { 0..0 };
    let alone = |live: &Range<usize>| {
        if shared.is_empty() {
            [live.clone(), 0..0]
        } else {
            [live.start..shared.start, shared.end..live.end]
        }
    };
    for part in 0..3 {
        if part == 1 {
            // SAFETY: as the caller promises; slots lie in the block.
            unsafe { add_slots::<S, C, R, N>(args, cache, shared.clone(), scores, states) };
            continue;
        }
        for ((live, scores), state) in live
            .iter()
            .zip(scores)
            .zip(states.chunks_exact_mut(2 + dim))
        {
            let slots = alone(live)[part / 2].clone();
            // SAFETY: as above, for one row.
            unsafe {
                add_slots::<S, C, 1, 4>(args, cache, slots, std::slice::from_ref(scores), state)
            };
        }
    }
}

/// Add the values of `slots` to the sums of `R` rows.
#[inline(always)]
unsafe fn add_slots<S: Simd, C: Cache, const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    cache: C,
    slots: Range<usize>,
    scores: &[Scores],
    states: &mut [f32],
) {
    if slots.is_empty() {
        return;
    }
    let dim = args.head_dim;
    let mut d = 0;
    // SAFETY: `d` and the dimensions after it lie within the head; the rest is as the caller promises.
    unsafe {
        while d + N * S::LANES <= dim {
            add_dimensions::<S, C, R, N>(dim, cache, slots.clone(), d, scores, states);
            d += N * S::LANES;
        }
        while d + S::LANES <= dim {
            add_dimensions::<S, C, R, 1>(dim, cache, slots.clone(), d, scores, states);
            d += S::LANES;
        }
    }
    for (state, scores) in states.chunks_exact_mut(2 + dim).zip(scores) {
        for d in d..dim {
            for slot in slots.clone() {
                let value = args.kv.value(slot, d, dim);
                state[2 + d] = scores[slot].mul_add(value, state[2 + d]);
            }
        }
    }
}

/// `N` vectors of dimensions from `d`, for `R` rows.
#[inline(always)]
unsafe fn add_dimensions<S: Simd, C: Cache, const R: usize, const N: usize>(
    dim: usize,
    cache: C,
    slots: Range<usize>,
    d: usize,
    scores: &[Scores],
    states: &mut [f32],
) {
    // SAFETY: each row's state is `2 + dim` long, V is `(128, dim)`, and `N` vectors from `d` are within the head.
    unsafe {
        let place =
            |states: *mut f32, r: usize, i: usize| states.add(r * (2 + dim) + 2 + d + i * S::LANES);
        let states = states.as_mut_ptr();
        let mut acc = [[S::splat(0.0); N]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = vectors!(N, |i| S::load(place(states, r, i)));
        }
        for slot in slots {
            let values = cache.values::<S, N>(slot, d, dim);
            for (r, acc) in acc.iter_mut().enumerate() {
                let p = S::splat(*scores.get_unchecked(r).get_unchecked(slot));
                for (acc, values) in acc.iter_mut().zip(values) {
                    *acc = S::fma(p, values, *acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (i, acc) in acc.into_iter().enumerate() {
                S::store(place(states, r, i), acc);
            }
        }
    }
}

/// Merge the state of a later block into the total of those before it.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn merge_state<S: Simd>(total: &mut [f32], part: &[f32]) {
    struct Merge<'a>(&'a mut [f32], &'a [f32]);
    impl<S: Simd> Kernel<S> for Merge<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Merge(total, part) = self;
            assert_eq!(total.len(), part.len());
            let m = if part[0] > total[0] {
                part[0]
            } else {
                total[0]
            };
            let (a, b) = (
                scalar::exp::exp(total[0] - m),
                scalar::exp::exp(part[0] - m),
            );
            total[0] = m;
            let (total, part) = (&mut total[1..], &part[1..]);
            let whole = total.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: as the caller promises; a vector from `i` lies within both.
                unsafe {
                    let place = total.as_mut_ptr().add(i);
                    let part = S::mul(S::load(part.as_ptr().add(i)), S::splat(b));
                    S::store(place, S::fma(S::load(place), S::splat(a), part));
                }
            }
            for (total, part) in total[whole..].iter_mut().zip(&part[whole..]) {
                *total = total.mul_add(a, part * b);
            }
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Merge(total, part)) }
}

/// Exact.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn widen_f16<S: Simd>(from: &[f16], to: &mut [f32]) {
    struct Widen<'a>(&'a [f16], &'a mut [f32]);
    impl<S: Simd> Kernel<S> for Widen<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Widen(from, to) = self;
            assert_eq!(from.len(), to.len());
            let whole = to.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: as the caller promises; a vector from `i` lies within both.
                unsafe {
                    let lanes = S::load_f16(from.as_ptr().add(i).cast());
                    S::store(to.as_mut_ptr().add(i), lanes);
                }
            }
            scalar::attention::widen_f16(&from[whole..], &mut to[whole..]);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Widen(from, to)) }
}

/// Exact. See `Kernels::widen_q8_0`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn widen_q8_0<S: Simd>(
    codes: &[i8],
    scales: &[f32],
    stride: usize,
    to: &mut [f32],
) {
    struct Widen<'a>(&'a [i8], &'a [f32], usize, &'a mut [f32]);
    impl<S: Simd> Kernel<S> for Widen<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Widen(codes, scales, stride, to) = self;
            assert!(codes.len() == to.len() && scales.len() == to.len() / Q8_0_BLOCK);
            assert!(stride == 1 || stride.is_multiple_of(S::LANES));
            assert!(to.len().is_multiple_of(Q8_0_BLOCK * stride));
            for i in (0..to.len()).step_by(S::LANES) {
                // SAFETY: as the caller promises; a vector from `i` lies within both, as blocks are whole vectors, and its scales are
                // one, or a vector within a row of them.
                unsafe {
                    let scale = match stride {
                        1 => S::splat(*scales.get_unchecked(i / Q8_0_BLOCK)),
                        _ => {
                            let row = i / (stride * Q8_0_BLOCK) * stride;
                            S::load(scales.as_ptr().add(row + i % stride))
                        }
                    };
                    let codes = S::load_i8(codes.as_ptr().add(i).cast());
                    S::store(to.as_mut_ptr().add(i), S::mul(codes, scale));
                }
            }
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Widen(codes, scales, stride, to)) }
}
