//! Attention of query rows over one block. Scores have positions in lanes, sums of values have dimensions in lanes; up to
//! six rows share what is loaded of K and V. The law is in `scalar/attention.rs`.

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use super::LANES;
use super::elementwise::{load, softcap_lanes, store};
use super::exp::exp;
use super::norm::sum_lanes;
use crate::attention::{BlockArgs, KV_BLOCK};

/// Rows that share loads. With two vectors each, their twelve sums, two loaded vectors and a factor fill 15 of the 16
/// registers; one or two rows take four vectors each, to have enough independent sums in flight.
const MAX_ROWS: usize = 6;

/// Scores of one row over a block.
type Scores = [f32; KV_BLOCK];

/// Compute each row's state `[m, l, acc]` over one block. `scores` is `(n_rows, 128)`, `states` is fresh.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn attend_block(args: &BlockArgs<'_>, scores: &mut [f32], states: &mut [f32]) {
    let (dim, n_rows) = (args.head_dim, args.live.len());
    assert!(
        args.k.len() == dim * KV_BLOCK
            && args.v.len() == dim * KV_BLOCK
            && args.q.len() == n_rows * dim
    );
    assert!(scores.len() == n_rows * KV_BLOCK && states.len() == n_rows * (2 + dim));
    assert!(args.live.iter().all(|live| live.end <= KV_BLOCK));
    let scores = scores.as_chunks_mut::<KV_BLOCK>().0;
    let rows = args
        .q
        .chunks(MAX_ROWS * dim)
        .zip(args.live.chunks(MAX_ROWS))
        .zip(scores.chunks_mut(MAX_ROWS));
    for (((q, live), scores), states) in rows.zip(states.chunks_mut(MAX_ROWS * (2 + dim))) {
        // SAFETY: the CPU has the instructions; the shapes were checked above.
        unsafe {
            match live.len() {
                1 => attend_rows::<1, 4>(args, q, live, scores, states),
                2 => attend_rows::<2, 4>(args, q, live, scores, states),
                3 => attend_rows::<3, 2>(args, q, live, scores, states),
                4 => attend_rows::<4, 2>(args, q, live, scores, states),
                5 => attend_rows::<5, 2>(args, q, live, scores, states),
                _ => attend_rows::<MAX_ROWS, 2>(args, q, live, scores, states),
            }
        }
    }
}

/// `R` rows against the block, `N` vectors at a time.
///
/// # Safety
/// The CPU has the instructions; the slices hold `R` rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_rows<const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    q: &[f32],
    live: &[Range<usize>],
    scores: &mut [Scores],
    states: &mut [f32],
) {
    let seen = live.iter().filter(|live| !live.is_empty());
    let Some((first, end)) = seen
        .map(|live| (live.start, live.end))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    else {
        return;
    };
    let step = N * LANES;
    for slot in (first / step * step..end).step_by(step) {
        // SAFETY: as the caller promises; `slot` and those of its vectors lie in the block.
        unsafe { score_slots::<R, N>(args, q, slot, scores) };
    }
    for ((live, scores), state) in live
        .iter()
        .zip(scores.iter_mut())
        .zip(states.chunks_exact_mut(2 + args.head_dim))
    {
        if !live.is_empty() {
            [state[0], state[1]] = weigh(scores, live);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { add_values::<R, N>(args, live, scores, states) };
}

/// Scores of `R` rows for the slots of `N` vectors.
///
/// # Safety
/// The CPU has the instructions; `q` holds `R` rows, `slot + 8 N` is within the block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn score_slots<const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    q: &[f32],
    slot: usize,
    scores: &mut [Scores],
) {
    let mut dots = [[_mm256_setzero_ps(); N]; R];
    for d in 0..args.head_dim {
        // SAFETY: row d of K has 128 positions, and `q` has `R` rows of `head_dim`.
        unsafe {
            let keys = args.k.as_ptr().add(d * KV_BLOCK + slot);
            let keys = load_vectors::<N>(keys);
            for (r, dots) in dots.iter_mut().enumerate() {
                let q = _mm256_broadcast_ss(&*q.as_ptr().add(r * args.head_dim + d));
                for (dot, keys) in dots.iter_mut().zip(keys) {
                    *dot = _mm256_fmadd_ps(q, keys, *dot);
                }
            }
        }
    }
    for (dots, scores) in dots.into_iter().zip(scores) {
        let places = scores[slot..slot + N * LANES].as_chunks_mut::<LANES>().0;
        for (dot, place) in dots.into_iter().zip(places) {
            let score = _mm256_mul_ps(dot, _mm256_set1_ps(args.scale));
            store(
                place,
                args.softcap
                    .map_or(score, |cap| softcap_lanes(score, _mm256_set1_ps(cap))),
            );
        }
    }
}

/// Turn the live scores of a row into weights, the others into zeros; returns the largest score and the sum of weights.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weigh(scores: &mut Scores, live: &Range<usize>) -> [f32; 2] {
    let vectors = scores.as_chunks_mut::<LANES>().0;
    let live_vectors = live.start / LANES..live.end.div_ceil(LANES);
    let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut max = lowest;
    for i in live_vectors.clone() {
        max = _mm256_max_ps(
            _mm256_blendv_ps(lowest, load(&vectors[i]), live_lanes(i, live)),
            max,
        );
    }
    let mut lanes = [0.0; LANES];
    store(&mut lanes, max);
    let m = lanes.iter().fold(
        f32::NEG_INFINITY,
        |m, lane| if *lane > m { *lane } else { m },
    );
    let mut sums = [_mm256_setzero_ps(); 2];
    for i in live_vectors {
        let p = exp(_mm256_sub_ps(load(&vectors[i]), _mm256_set1_ps(m)));
        let p = _mm256_and_ps(p, live_lanes(i, live));
        sums[i % 2] = _mm256_add_ps(sums[i % 2], p);
        store(&mut vectors[i], p);
    }
    [m, sum_lanes(sums)]
}

/// All bits of the lanes of vector `index` whose slots are live.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn live_lanes(index: usize, live: &Range<usize>) -> __m256 {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let slots = _mm256_add_epi32(lanes, _mm256_set1_epi32((index * LANES) as i32));
    let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(live.start as i32), slots);
    let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(live.end as i32), slots);
    _mm256_castsi256_ps(_mm256_andnot_si256(before, within))
}

/// `acc[d] = fma(p, v[d], acc[d])` over each row's live slots in order: those that all rows see together, the others alone.
///
/// # Safety
/// The CPU has the instructions; the slices hold `R` rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_values<const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
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
            unsafe { add_slots::<R, N>(args, shared.clone(), scores, states) };
            continue;
        }
        for ((live, scores), state) in live
            .iter()
            .zip(scores)
            .zip(states.chunks_exact_mut(2 + dim))
        {
            let slots = alone(live)[part / 2].clone();
            // SAFETY: as above, for one row.
            unsafe { add_slots::<1, 4>(args, slots, std::slice::from_ref(scores), state) };
        }
    }
}

/// Add the values of `slots` to the sums of `R` rows.
///
/// # Safety
/// The CPU has the instructions; `scores` and `states` hold `R` rows, `slots` lie in the block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_slots<const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
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
        while d + N * LANES <= dim {
            add_dimensions::<R, N>(args, slots.clone(), d, scores, states);
            d += N * LANES;
        }
        while d + LANES <= dim {
            add_dimensions::<R, 1>(args, slots.clone(), d, scores, states);
            d += LANES;
        }
    }
    for (state, scores) in states.chunks_exact_mut(2 + dim).zip(scores) {
        for d in d..dim {
            for slot in slots.clone() {
                state[2 + d] = scores[slot].mul_add(args.v[slot * dim + d], state[2 + d]);
            }
        }
    }
}

/// `N` vectors of dimensions from `d`, for `R` rows.
///
/// # Safety
/// As for [`add_slots`]; `d + 8 N` is within the head.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_dimensions<const R: usize, const N: usize>(
    args: &BlockArgs<'_>,
    slots: Range<usize>,
    d: usize,
    scores: &[Scores],
    states: &mut [f32],
) {
    let dim = args.head_dim;
    // SAFETY: each row's state is `2 + dim` long and V is `(128, dim)`.
    unsafe {
        let place =
            |states: *mut f32, r: usize, i: usize| states.add(r * (2 + dim) + 2 + d + i * LANES);
        let states = states.as_mut_ptr();
        let mut acc = [[_mm256_setzero_ps(); N]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = load_vectors::<N>(place(states, r, 0));
        }
        for slot in slots {
            let values = args.v.as_ptr().add(slot * dim + d);
            let values = load_vectors::<N>(values);
            for (r, acc) in acc.iter_mut().enumerate() {
                let p = _mm256_broadcast_ss(scores.get_unchecked(r).get_unchecked(slot));
                for (acc, values) in acc.iter_mut().zip(values) {
                    *acc = _mm256_fmadd_ps(p, values, *acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (i, acc) in acc.into_iter().enumerate() {
                _mm256_storeu_ps(place(states, r, i), acc);
            }
        }
    }
}

/// `N` vectors from `from`.
///
/// # Safety
/// The CPU has AVX2; `8 N` elements are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_vectors<const N: usize>(from: *const f32) -> [__m256; N] {
    let mut vectors = [_mm256_setzero_ps(); N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *vector = unsafe { _mm256_loadu_ps(from.add(i * LANES)) };
    }
    vectors
}

/// Merge the state of a later block into the total of those before it.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn merge_state(total: &mut [f32], part: &[f32]) {
    let m = if part[0] > total[0] {
        part[0]
    } else {
        total[0]
    };
    let (a, b) = (
        exp(_mm256_set1_ps(total[0] - m)),
        exp(_mm256_set1_ps(part[0] - m)),
    );
    total[0] = m;
    let (total, total_rest) = total[1..].as_chunks_mut::<LANES>();
    let (part, part_rest) = part[1..].as_chunks::<LANES>();
    for (total, part) in total.iter_mut().zip(part) {
        store(
            total,
            _mm256_fmadd_ps(load(total), a, _mm256_mul_ps(load(part), b)),
        );
    }
    let (a, b) = (_mm256_cvtss_f32(a), _mm256_cvtss_f32(b));
    for (total, part) in total_rest.iter_mut().zip(part_rest) {
        *total = total.mul_add(a, part * b);
    }
}

/// Exact.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn widen_f16(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let (from, from_rest) = from.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: eight f16 are 16 readable bytes.
        store(
            to,
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) }),
        );
    }
    crate::isa::scalar::attention::widen_f16(from_rest, to_rest);
}
