//! What encryption costs: a demo cluster on loopback with and without TLS, in turn.
//!
//! ```sh
//! cargo build --release --package potluck --features plaintext-bench --target-dir target/plaintext-bench
//! POTLUCK_TEST_PROGRAM=target/plaintext-bench/release/potluck cargo run --release --package potluck-tests --example tls_cost
//! ```
//!
//! Both runs are of that one build, which drops the encryption after the handshake if it is asked to. Prints medians, and the ratio
//! and difference of each pair of runs.

use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::invoke;

/// Pairs of runs.
const ROUNDS: usize = 14;

/// What a run computes. A prompt of 1 900 tokens leaves room for an answer in a demo's context of 2 048; encryption's part of
/// decoding is seen best where there is least to compute, after a short one.
struct Load {
    prompt_tokens: usize,
    answer_tokens: &'static str,
}

const LONG_PROMPT: Load = Load {
    prompt_tokens: 1900,
    answer_tokens: "16",
};

const LONG_ANSWER: Load = Load {
    prompt_tokens: 20,
    answer_tokens: "512",
};

/// Tokens a second, and the ring's own time.
struct Speed {
    prefill: f64,
    decode: f64,
    /// Time of an empty step round the ring: what a token costs besides its computing.
    ring_us: f64,
}

fn main() {
    let n_workers = std::env::args().nth(1).unwrap_or_else(|| "2".into());
    println!("{n_workers} workers, medians of {ROUNDS} pairs of runs in turn");
    let pairs = pairs(&n_workers, &LONG_PROMPT);
    let all = |of: &dyn Fn(&(Speed, Speed)) -> f64| pairs.iter().map(of).collect::<Vec<_>>();
    println!(
        "prefill, tokens/s: {:.1} plaintext, {:.1} TLS, ratio {:.3}",
        median(all(&|(plain, _)| plain.prefill)),
        median(all(&|(_, tls)| tls.prefill)),
        median(all(&|(plain, tls)| tls.prefill / plain.prefill)),
    );
    let pairs = self::pairs(&n_workers, &LONG_ANSWER);
    let all = |of: &dyn Fn(&(Speed, Speed)) -> f64| pairs.iter().map(of).collect::<Vec<_>>();
    let ms = |speed: &Speed| 1e3 / speed.decode;
    println!(
        "an empty step round the ring, us: {:.0} plaintext, {:.0} TLS",
        median(all(&|(plain, _)| plain.ring_us)),
        median(all(&|(_, tls)| tls.ring_us)),
    );
    println!(
        "decode, ms/token: {:.3} plaintext, {:.3} TLS, difference {:+.3}",
        median(all(&|(plain, _)| ms(plain))),
        median(all(&|(_, tls)| ms(tls))),
        median(all(&|(plain, tls)| ms(tls) - ms(plain))),
    );
}

fn pairs(n_workers: &str, load: &Load) -> Vec<(Speed, Speed)> {
    // One run to warm the caches.
    run(n_workers, load, true);
    (0..ROUNDS)
        .map(|_| (run(n_workers, load, false), run(n_workers, load, true)))
        .collect()
}

fn run(n_workers: &str, load: &Load, is_encrypted: bool) -> Speed {
    let model = model(SMOLLM2).display().to_string();
    let prompt = ["sea", "wind", "stone", "light", "river"].map(|word| format!(" the {word}"));
    let prompt: String = prompt
        .iter()
        .cycle()
        .take(load.prompt_tokens / 2)
        .map(String::as_str)
        .collect();
    let demo = invoke([
        "demo",
        "--json",
        "--raw",
        "--workers",
        n_workers,
        "--model",
        &model,
        "--max-tokens",
        load.answer_tokens,
    ]);
    let demo = demo.env("POTLUCK_PROMPT", prompt);
    let demo = match is_encrypted {
        true => demo,
        false => demo.env("POTLUCK_PLAINTEXT_BENCH", "1"),
    };
    let report = demo.finish().json();
    let number = |key: &str| {
        report[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no {key}: {report}"))
    };
    eprintln!(
        "{} {} prompt tokens at {:.1}/s, then {:.1}/s",
        if is_encrypted {
            "TLS      "
        } else {
            "plaintext"
        },
        number("prompt_tokens"),
        number("prompt_tokens_per_second"),
        number("tokens_per_second")
    );
    Speed {
        prefill: number("prompt_tokens_per_second"),
        decode: number("tokens_per_second"),
        ring_us: number("ring_us"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
