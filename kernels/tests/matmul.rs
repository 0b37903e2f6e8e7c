//! Matrix products: true to the weights, and the same bits whatever the batch, the threads and the instruction set.

mod common;

use std::sync::Arc;

use common::*;
use potluck_kernels::{
    Activation, Gated, GatedOut, Kernels, Pool, Product, QuantizedRows, Rows, WeightMatrix,
    WeightType, dequantize,
};
use proptest::{prelude::ProptestConfig, proptest};

/// The most the quantised product may be off from the exact one: the limit llama.cpp sets itself.
const NMSE_LIMIT: f64 = 5e-4;

struct Case {
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
    n_tokens: usize,
}

impl Case {
    fn new(
        rng: &mut Rng,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        n_tokens: usize,
        codes: Codes,
    ) -> Case {
        let bytes = weights(rng, ty, n_rows, n_cols, codes);
        Case {
            ty,
            n_rows,
            n_cols,
            bytes,
            x: rng.floats(n_tokens * n_cols),
            n_tokens,
        }
    }

    fn run(&self, kernels: Kernels, pool: &Pool) -> Vec<f32> {
        product(kernels, pool, &self.pack(kernels), &self.x, self.n_tokens)
    }

    /// With three elements between the outputs of one token and the next, and none after the last.
    fn run_with_gaps(&self, kernels: Kernels, pool: &Pool) -> Vec<f32> {
        let w = self.pack(kernels);
        let mut q = QuantizedRows::new();
        if self.ty.is_quantized() {
            kernels.quantize_rows(pool, &self.x, self.n_tokens, self.n_cols, &mut q);
        }
        let out_stride = self.n_rows + 3;
        let mut out = vec![7.0; self.n_tokens * out_stride - 3];
        let products = [Product::new(&w, &mut out, out_stride)];
        let x = Rows {
            f32: &self.x,
            q: &q,
        };
        kernels.matmul_many(pool, x, self.n_tokens, &products);
        out
    }

    fn pack(&self, kernels: Kernels) -> WeightMatrix {
        pack(kernels, self.ty, self.n_rows, self.n_cols, &self.bytes)
    }
}

fn pack(
    kernels: Kernels,
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    bytes: &[u8],
) -> WeightMatrix {
    kernels
        .pack(&Pool::new(1), ty, n_rows, n_cols, bytes)
        .unwrap()
}

fn product(
    kernels: Kernels,
    pool: &Pool,
    w: &WeightMatrix,
    x: &[f32],
    n_tokens: usize,
) -> Vec<f32> {
    let mut q = QuantizedRows::new();
    if w.ty().is_quantized() {
        kernels.quantize_rows(pool, x, n_tokens, w.n_cols(), &mut q);
    }
    let mut out = vec![f32::NAN; n_tokens * w.n_rows()];
    kernels.matmul(pool, w, Rows { f32: x, q: &q }, &mut out);
    out
}

/// The least row length that is whole blocks of a type and of activations.
fn unit(ty: WeightType) -> usize {
    ty.block_elements().max(32)
}

#[test]
fn every_tier_quantises_alike() {
    let mut rng = Rng::new(3);
    let pool = Pool::new(2);
    let mut x = rng.floats(9 * 320);
    x[..32].fill(0.0);
    x[32..64].fill(-0.0);
    x[64..96].fill(1e-40);
    x[100] = f32::NAN;
    x[140] = f32::NEG_INFINITY;
    x[160..192].fill(f32::MAX);
    for (i, x) in x[192..224].iter_mut().enumerate() {
        *x = i as f32 - 15.5; // ties once scaled by 127 / 15.5
    }
    x[224..256].fill(0.5);
    x[230] = 127.0;
    x[256] = 3e38;
    let values = |kernels: Kernels| {
        let (mut q, mut out) = (QuantizedRows::new(), vec![0.0; 9 * 320]);
        kernels.quantize_rows(&pool, &x, 9, 320, &mut q);
        q.dequantize(&mut out);
        (format!("{q:?}"), out)
    };
    let (expected, truth) = values(scalar_kernels());
    for kernels in vector_kernels() {
        assert_eq!(values(kernels).0, expected, "{:?}", kernels.isa());
    }
    let first_good = 320;
    let exact: Vec<f64> = x[first_good..].iter().map(|x| f64::from(*x)).collect();
    assert!(nmse(&truth[first_good..], &exact) < 1e-4);
}

#[test]
fn products_are_near_the_exact_ones() {
    let mut rng = Rng::new(4);
    let pool = Pool::new(1);
    for ty in WeightType::ALL {
        let (n_rows, n_cols, n_tokens) = (40, 1024, 3);
        let bytes = random_weights(&mut rng, ty, n_rows, n_cols);
        let x = rng.floats(n_tokens * n_cols);
        let w = pack(scalar_kernels(), ty, n_rows, n_cols, &bytes);
        let mut weights = vec![0.0; n_rows * n_cols];
        dequantize(ty, &bytes, &mut weights);
        let dot = |w: &[f32], x: &[f32]| {
            w.iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum::<f64>()
        };
        let truth: Vec<f64> = x
            .chunks(n_cols)
            .flat_map(|x| weights.chunks(n_cols).map(move |w| dot(w, x)))
            .collect();
        let error = nmse(&product(scalar_kernels(), &pool, &w, &x, n_tokens), &truth);
        let limit = if ty.is_quantized() { NMSE_LIMIT } else { 1e-12 };
        assert!(error <= limit, "{}: {error:e}", ty.name());
    }
}

/// Row counts around a tile and a group of tiles, token counts around a group of columns.
#[test]
fn every_tier_gives_the_same_bits() {
    let mut rng = Rng::new(5);
    let pool = Pool::new(1);
    for ty in WeightType::ALL {
        for (n_rows, n_blocks, n_tokens) in [
            (1, 1, 1),
            (8, 3, 2),
            (9, 2, 3),
            (31, 1, 4),
            (32, 2, 5),
            (33, 5, 9),
            (70, 1, 7),
            (15, 2, 17),
            (16, 1, 24),
            (17, 3, 31),
            (130, 1, 33),
        ] {
            let case = Case::new(
                &mut rng,
                ty,
                n_rows,
                n_blocks * unit(ty),
                n_tokens,
                Codes::Random,
            );
            let expected = case.run(scalar_kernels(), &pool);
            for kernels in vector_kernels() {
                let what = format!("{} {n_rows} x {n_blocks} x {n_tokens}", ty.name());
                assert_same_bits(&case.run(kernels, &pool), &expected, &what);
            }
        }
    }
}

/// Every number of columns up to more than a group, rows that end within a tile, floats of odd length; and no buffer is longer than
/// it has to be, so a kernel that reads or writes beyond one meets the fence.
#[test]
fn ragged_shapes_end_where_their_buffers_do() {
    let mut rng = Rng::new(10);
    let pool = Pool::new(1);
    for ty in WeightType::ALL {
        for n_tokens in 1..=17 {
            let n_cols = match ty.is_quantized() {
                true => (1 + n_tokens % 3) * unit(ty),
                false => 2 * n_tokens + 1,
            };
            for n_rows in [n_tokens, 33 - n_tokens, 128 + n_tokens] {
                let case = Case::new(&mut rng, ty, n_rows, n_cols, n_tokens, Codes::Random);
                let expected = case.run_with_gaps(scalar_kernels(), &pool);
                for kernels in vector_kernels() {
                    let what = format!("{} {n_rows} x {n_cols} x {n_tokens}", ty.name());
                    assert_same_bits(&case.run_with_gaps(kernels, &pool), &expected, &what);
                }
            }
        }
    }
}

/// Codes and activations that would overflow a 16-bit sum if a kernel summed too many.
#[test]
fn extreme_codes_do_not_saturate() {
    let mut rng = Rng::new(6);
    let pool = Pool::new(1);
    let patterns = [
        Codes::All(0xff),
        Codes::All(0x00),
        Codes::All(0x80),
        Codes::All(0x7f),
        Codes::Alternating(0xff, 0x00),
        Codes::Alternating(0x80, 0x7f),
        Codes::Alternating(0x0f, 0xf0),
    ];
    for ty in WeightType::ALL {
        for codes in patterns {
            let mut case = Case::new(&mut rng, ty, 9, 2 * unit(ty), 12, codes);
            let n_cols = case.n_cols;
            for (col, x) in case.x.chunks_mut(n_cols).enumerate() {
                x.iter_mut().enumerate().for_each(|(i, x)| {
                    *x = [1.0, -1.0, [1.0, -1.0][i % 2], [1.0, -1.0][i / 2 % 2]][col % 4];
                });
            }
            let expected = case.run(scalar_kernels(), &pool);
            for kernels in vector_kernels() {
                assert_same_bits(
                    &case.run(kernels, &pool),
                    &expected,
                    &format!("{} {codes:?}", ty.name()),
                );
            }
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    let mut rng = Rng::new(7);
    let pool = Pool::new(1);
    for ty in WeightType::ALL {
        let case = Case::new(&mut rng, ty, 37, 2 * unit(ty), 11, Codes::Random);
        for kernels in vector_kernels() {
            let together = case.run(kernels, &pool);
            let w = case.pack(kernels);
            for token in 0..case.n_tokens {
                let x = &case.x[token * case.n_cols..(token + 1) * case.n_cols];
                let alone = product(kernels, &pool, &w, x, 1);
                assert_same_bits(&alone, &together[token * 37..(token + 1) * 37], ty.name());
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = Rng::new(8);
    let kernels = Kernels::detect();
    for ty in WeightType::ALL {
        let case = Case::new(&mut rng, ty, 500, unit(ty), 70, Codes::Random);
        let expected = case.run(kernels, &Pool::new(1));
        for n_threads in [2, 3] {
            assert_same_bits(
                &case.run(kernels, &Pool::new(n_threads)),
                &expected,
                ty.name(),
            );
        }
    }
}

#[test]
fn several_products_of_one_input_and_strides() {
    let mut rng = Rng::new(9);
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let (n_cols, n_tokens) = (64, 5);
    let x = rng.floats(n_tokens * n_cols);
    let mut q = QuantizedRows::new();
    kernels.quantize_rows(&pool, &x, n_tokens, n_cols, &mut q);
    let make = |rng: &mut Rng, ty, n_rows| {
        let bytes = random_weights(rng, ty, n_rows, n_cols);
        pack(kernels, ty, n_rows, n_cols, &bytes)
    };
    let (a, b) = (
        make(&mut rng, WeightType::Q4_1, 24),
        make(&mut rng, WeightType::F16, 10),
    );
    let (mut out_a, mut out_b) = (vec![7.0; n_tokens * 30], vec![7.0; n_tokens * 10]);
    let products = [
        Product::new(&a, &mut out_a, 30),
        Product::new(&b, &mut out_b, 10),
    ];
    kernels.matmul_many(&pool, Rows { f32: &x, q: &q }, n_tokens, &products);
    assert_same_bits(&out_b, &product(kernels, &pool, &b, &x, n_tokens), "second");
    let alone = product(kernels, &pool, &a, &x, n_tokens);
    for (got, expected) in out_a.chunks(30).zip(alone.chunks(24)) {
        assert_same_bits(&got[..24], expected, "first");
        assert_eq!(got[24..], [7.0; 6], "between the rows nothing is written");
    }
}

#[test]
fn rows_that_are_packed_on_use_give_the_same_bits() {
    let mut rng = Rng::new(12);
    for ty in WeightType::ALL {
        for (n_rows, n_tokens) in [(41, 1), (70, 20)] {
            let case = Case::new(&mut rng, ty, n_rows, 512, n_tokens, Codes::Random);
            for kernels in vector_kernels().into_iter().chain([scalar_kernels()]) {
                let pool = Pool::new(2);
                let packed = case.pack(kernels);
                let bytes = Arc::new(case.bytes.clone());
                let unpacked = kernels.unpacked(ty, n_rows, 512, bytes).unwrap();
                let what = format!("{} {}", ty.name(), kernels.isa().name());
                assert_same_bits(
                    &product(kernels, &pool, &unpacked, &case.x, n_tokens),
                    &product(kernels, &pool, &packed, &case.x, n_tokens),
                    &what,
                );
                let rows = [packed, unpacked].map(|w| {
                    let mut row = vec![0.0; 512];
                    w.row_f32(n_rows - 1, &mut row);
                    row
                });
                assert_same_bits(&rows[0], &rows[1], &what);
            }
        }
    }
}

#[test]
fn a_product_added_is_the_product_and_then_added() {
    let mut rng = Rng::new(10);
    for (ty, n_rows, n_tokens) in [
        (WeightType::Q4_K, 41, 1),
        (WeightType::Q6_K, 64, 19),
        (WeightType::BF16, 13, 3),
    ] {
        let bytes = random_weights(&mut rng, ty, n_rows, 256);
        let x = rng.floats(n_tokens * 256);
        let before = rng.floats(n_tokens * n_rows);
        for kernels in vector_kernels().into_iter().chain([scalar_kernels()]) {
            let pool = Pool::new(2);
            let w = pack(kernels, ty, n_rows, 256, &bytes);
            let mut expected = before.clone();
            kernels.add_assign(&mut expected, &product(kernels, &pool, &w, &x, n_tokens));
            let mut q = QuantizedRows::new();
            kernels.quantize_rows(&pool, &x, n_tokens, 256, &mut q);
            let mut out = before.clone();
            let added = Product::new(&w, &mut out, n_rows).added();
            kernels.matmul_many(&pool, Rows { f32: &x, q: &q }, n_tokens, &[added]);
            assert_same_bits(&out, &expected, ty.name());
        }
    }
}

#[test]
fn gated_is_its_operations_one_after_another() {
    let mut rng = Rng::new(11);
    for (types, n_rows, n_tokens) in [
        ([WeightType::Q4_K, WeightType::Q6_K], 32, 1),
        ([WeightType::Q4_K, WeightType::Q4_K], 96 * 3 + 64, 35),
        ([WeightType::Q8_0, WeightType::F16], 576, 2),
        ([WeightType::F32, WeightType::Q5_K], 45, 17),
    ] {
        let [gate_bytes, up_bytes] = types.map(|ty| random_weights(&mut rng, ty, n_rows, 256));
        let x = rng.floats(n_tokens * 256);
        let bias = rng.floats(n_rows);
        for kernels in vector_kernels().into_iter().chain([scalar_kernels()]) {
            let pool = Pool::new(2);
            // One of the two where it lies.
            let bytes = Arc::new(gate_bytes.clone());
            let gate = kernels.unpacked(types[0], n_rows, 256, bytes).unwrap();
            let up = pack(kernels, types[1], n_rows, 256, &up_bytes);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let (mut g, u) = (
                    product(kernels, &pool, &gate, &x, n_tokens),
                    product(kernels, &pool, &up, &x, n_tokens),
                );
                g.chunks_mut(n_rows)
                    .for_each(|row| kernels.add_assign(row, &bias));
                let mut expected = vec![0.0; g.len()];
                match activation {
                    Activation::Silu => kernels.silu_mul(&g, &u, &mut expected),
                    Activation::GeluTanh => kernels.gelu_tanh_mul(&g, &u, &mut expected),
                }
                let layer = Gated {
                    gate: &gate,
                    up: &up,
                    gate_bias: Some(&bias),
                    up_bias: None,
                    activation,
                };
                let mut q = QuantizedRows::new();
                kernels.quantize_rows(&pool, &x, n_tokens, 256, &mut q);
                let rows = Rows { f32: &x, q: &q };
                let mut out = vec![f32::NAN; g.len()];
                kernels.gated(&pool, &layer, rows, n_tokens, GatedOut::F32(&mut out));
                let name = kernels.isa().name();
                assert_same_bits(&out, &expected, name);
                if n_rows % 32 == 0 {
                    let (mut got, mut want) = (QuantizedRows::new(), QuantizedRows::new());
                    kernels.gated(&pool, &layer, rows, n_tokens, GatedOut::Quantized(&mut got));
                    kernels.quantize_rows(&pool, &expected, n_tokens, n_rows, &mut want);
                    assert!(got == want, "{name}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_any_tier(seed: u64, ty in 0usize..11, n_rows in 1usize..80, n_blocks in 1usize..4, n_tokens in 1usize..12) {
        let ty = WeightType::ALL[ty];
        let case = Case::new(&mut Rng::new(seed), ty, n_rows, n_blocks * unit(ty), n_tokens, Codes::Random);
        let expected = case.run(scalar_kernels(), &Pool::new(1));
        for kernels in vector_kernels() {
            assert_same_bits(&case.run(kernels, &Pool::new(1)), &expected, ty.name());
        }
    }
}
