//! Norms, activations and rope: near the exact ones, and the same bits on every tier.

mod common;

use common::*;
use potluck_kernels::{Kernels, RopeTable, exp, tanh};

/// Row lengths around a vector and around 16 lanes.
const LENGTHS: [usize; 8] = [1, 7, 8, 15, 16, 17, 33, 576];

fn close(got: &[f32], truth: impl Iterator<Item = f64>) {
    let truth: Vec<f64> = truth.collect();
    let error = nmse(got, &truth);
    assert!(error < 1e-12, "{error:e}");
}

/// Values of every size, with what a faulty model may hand over: zeros, infinities, NaNs.
fn wild(rng: &mut Rng, n: usize) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        88.8,
        -87.4,
        -104.0,
        3e38,
    ];
    (0..n)
        .map(|i| match rng.below(4) {
            0 => special[i % special.len()],
            1 => rng.f32() * 100.0,
            _ => rng.f32() * 4.0,
        })
        .collect()
}

#[test]
fn gated_activations_are_near_the_exact_ones() {
    let (kernels, mut rng) = (Kernels::detect(), Rng::new(31));
    let (gate, up) = (
        rng.floats(500).iter().map(|x| x * 12.0).collect::<Vec<_>>(),
        rng.floats(500),
    );
    let pairs = || {
        gate.iter()
            .zip(&up)
            .map(|(g, u)| (f64::from(*g), f64::from(*u)))
    };
    let mut out = vec![0.0; 500];
    kernels.silu_mul(&gate, &up, &mut out);
    close(&out, pairs().map(|(g, u)| g / (1.0 + (-g).exp()) * u));
    kernels.gelu_tanh_mul(&gate, &up, &mut out);
    let tanh_arg = |g: f64| (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
    close(
        &out,
        pairs().map(|(g, u)| 0.5 * g * (1.0 + tanh_arg(g).tanh()) * u),
    );
    let mut capped = gate.clone();
    kernels.softcap(&mut capped, 3.0);
    close(
        &capped,
        gate.iter().map(|x| 3.0 * (f64::from(*x) / 3.0).tanh()),
    );
    let mut sum = gate.clone();
    kernels.add_assign(&mut sum, &up);
    kernels.scale(&mut sum, 0.5);
    close(&sum, pairs().map(|(g, u)| (g + u) / 2.0));
}

#[test]
fn rms_norm_is_near_the_exact_one() {
    let mut rng = Rng::new(32);
    let (x, weight) = (rng.floats(3 * 100), rng.floats(100));
    let mut out = vec![0.0; 300];
    Kernels::detect().rms_norm(&x, &weight, 1e-5, &mut out);
    let truth = x.chunks(100).flat_map(|x| {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 100.0;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        x.iter()
            .zip(&weight)
            .map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
    });
    close(&out, truth);
}

#[test]
fn rope_turns_pairs_and_keeps_the_rest() {
    let kernels = Kernels::detect();
    let mut table = RopeTable::new(&[0.5, 0.25]);
    table.ensure(4);
    let turned = |a: f64, b: f64, angle: f64| {
        [
            a * angle.cos() - b * angle.sin(),
            a * angle.sin() + b * angle.cos(),
        ]
        .map(|x| x as f32)
    };
    let ([a0, b0], [a1, b1]) = (turned(1.0, 2.0, 1.5), turned(3.0, 4.0, 0.75));
    let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
    kernels.rope_norm(&mut x, 5, table.row(3));
    close(&x, [a0, b0, a1, b1, 5.0].into_iter().map(f64::from));
    let mut x = [1.0, 3.0, 2.0, 4.0, 5.0];
    kernels.rope_neox(&mut x, 5, table.row(3));
    close(&x, [a0, a1, b0, b1, 5.0].into_iter().map(f64::from));
}

#[test]
fn every_tier_gives_the_same_bits() {
    let (scalar, mut rng) = (scalar_kernels(), Rng::new(33));
    for kernels in vector_kernels() {
        for n in LENGTHS {
            for _ in 0..20 {
                let (x, y, weight) = (wild(&mut rng, 2 * n), wild(&mut rng, 2 * n), rng.floats(n));
                let same = |what: &str, run: &dyn Fn(Kernels) -> Vec<f32>| {
                    same_but_for_nans(&run(kernels), &run(scalar), &format!("{what} of {n}"));
                };
                let out = |run: &dyn Fn(&mut [f32])| {
                    let mut out = x.clone();
                    run(&mut out);
                    out
                };
                same("add", &|k| out(&|out| k.add_assign(out, &y)));
                same("scale", &|k| out(&|out| k.scale(out, 0.3)));
                same("softcap", &|k| out(&|out| k.softcap(out, 30.0)));
                same("silu", &|k| out(&|out| k.silu_mul(&x, &y, out)));
                same("gelu", &|k| out(&|out| k.gelu_tanh_mul(&x, &y, out)));
                let tame = rng.floats(2 * n);
                same("norm", &|k| {
                    out(&|out| k.rms_norm(&tame, &weight, 1e-6, out))
                });
                same("wild norm", &|k| {
                    out(&|out| k.rms_norm(&x, &weight, 1e-6, out))
                });
            }
        }
    }
}

#[test]
fn every_tier_turns_alike() {
    let (scalar, mut rng) = (scalar_kernels(), Rng::new(34));
    for kernels in vector_kernels() {
        for (head_dim, n_freq) in [
            (64, 32),
            (256, 128),
            (80, 20),
            (24, 12),
            (36, 18),
            (10, 3),
            (8, 0),
        ] {
            let frequencies: Vec<f64> = (0..n_freq)
                .map(|i| 1e4f64.powf(-f64::from(i) / 7.0))
                .collect();
            let mut table = RopeTable::new(&frequencies);
            table.ensure(100);
            let x = rng.floats(3 * head_dim);
            let run = |k: Kernels| {
                let (mut norm, mut neox) = (x.clone(), x.clone());
                k.rope_norm(&mut norm, head_dim, table.row(99));
                k.rope_neox(&mut neox, head_dim, table.row(99));
                [norm, neox].concat()
            };
            assert_same_bits(&run(kernels), &run(scalar), &format!("{head_dim} {n_freq}"));
        }
    }
}

#[test]
fn the_public_functions_are_those_of_the_kernels() {
    let x = [0.3f32, -2.0, 5.0, 0.0];
    let mut capped = x;
    Kernels::detect().softcap(&mut capped, 1.0);
    assert_same_bits(&capped, &x.map(tanh), "tanh");
    assert_eq!(exp(1.0), std::f32::consts::E);
}

/// Equal bits, or NaN on both sides: which of two NaNs an addition keeps is not ours to say.
#[track_caller]
fn same_but_for_nans(got: &[f32], expected: &[f32], what: &str) {
    let plain = |x: &[f32]| {
        x.iter()
            .map(|x| if x.is_nan() { f32::NAN } else { *x })
            .collect::<Vec<_>>()
    };
    assert_same_bits(&plain(got), &plain(expected), what);
}
