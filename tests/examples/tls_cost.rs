//! What encryption costs: a demo cluster on loopback with and without TLS, in turn.
//!
//! ```sh
//! cargo build --release --package potluck --features plaintext-bench --target-dir target/plaintext-bench
//! POTLUCK_TEST_PROGRAM=target/plaintext-bench/release/potluck cargo run --release --package potluck-tests --example tls_cost
//! ```
//!
//! Both runs are of that one build, which drops the encryption after the handshake if it is asked to. Which of a pair goes first
//! alternates. Prints medians, and the median difference of pairs with the middle half's spread and the standard error of the median.
//! The arguments are workers (2) and pairs of runs: of a long prompt (7) and of a long answer (100).

use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::invoke;

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
    answer_tokens: "128",
};

/// Tokens a second, and the ring's own time.
struct Speed {
    prefill: f64,
    decode: f64,
    /// Time of an empty step round the ring: what a token costs besides its computing.
    ring_us: f64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n_workers = args.next().unwrap_or_else(|| "2".into());
    let mut rounds = |default: usize| {
        args.next()
            .map_or(default, |n| n.parse().expect("a number of pairs"))
    };
    let (n_prompts, n_answers) = (rounds(7), rounds(100));
    println!("{n_workers} workers, medians of {n_prompts} and {n_answers} pairs of runs in turn");
    let prompts = pairs(&n_workers, &LONG_PROMPT, n_prompts);
    report("prefill, tokens/s", &prompts, |speed| speed.prefill);
    let answers = pairs(&n_workers, &LONG_ANSWER, n_answers);
    report("an empty step round the ring, us", &answers, |speed| {
        speed.ring_us
    });
    report("decode, ms/token", &answers, |speed| 1e3 / speed.decode);
}

/// One line: both medians, and what is to be said of the differences.
fn report(what: &str, pairs: &[(Speed, Speed)], of: impl Fn(&Speed) -> f64) {
    let (plain, tls): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(p, t)| (of(p), of(t))).unzip();
    let mut differences: Vec<f64> = plain.iter().zip(&tls).map(|(p, t)| t - p).collect();
    differences.sort_by(f64::total_cmp);
    let quartile = |i: usize| differences[(differences.len() - 1) * i / 4];
    let spread = quartile(3) - quartile(1);
    // Of a normal distribution: the middle half is 1.349 standard deviations wide, and a median's error is 1.253 of the mean's.
    let error = 1.253 * spread / 1.349 / (differences.len() as f64).sqrt();
    let (plain, tls) = (median(plain), median(tls));
    println!(
        "{what}: {plain:.3} plaintext, {tls:.3} TLS, ratio {:.3}; pairs differ by {:+.3}, half of them within {spread:.3}, standard error {error:.3}",
        tls / plain,
        quartile(2)
    );
}

/// Pairs of runs, plaintext and TLS.
fn pairs(n_workers: &str, load: &Load, n: usize) -> Vec<(Speed, Speed)> {
    // One run to warm the caches.
    run(n_workers, load, true);
    (0..n)
        .map(|i| {
            let first = run(n_workers, load, i % 2 == 1);
            let second = run(n_workers, load, i % 2 == 0);
            if i % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            }
        })
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
