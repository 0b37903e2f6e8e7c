//! Law 3: the path in f32 gives the model's own logits to rounding, and the fast path is no farther from them than
//! llama.cpp is.

use potluck_tests::logits::{Kind, TEXTS, distance, eval, read, text, vectors};
use potluck_tests::long_form;
use potluck_tests::models::{GEMMA3, QWEN, SMOLLM2, model, model_if_wanted};

/// What rounding in f32 may add up to, over all layers.
const ROUNDING: f64 = 1e-5;

#[test]
fn smollm2_is_no_farther_from_the_truth_than_llama_cpp() {
    no_farther_than_llama_cpp(SMOLLM2, &model(SMOLLM2));
}

#[test]
fn gemma3_is_no_farther_from_the_truth_than_llama_cpp() {
    no_farther_than_llama_cpp(GEMMA3, &model(GEMMA3));
}

#[test]
fn qwen_is_no_farther_from_the_truth_than_llama_cpp() {
    if let Some(path) = model_if_wanted(QWEN) {
        no_farther_than_llama_cpp(QWEN, &path);
    }
}

fn no_farther_than_llama_cpp(name: &str, model: &std::path::Path) {
    let (mut ours_sum, mut full_sum, mut theirs_sum) = (0.0, 0.0, 0.0);
    for of in TEXTS {
        let exact_file = vectors(name, of, Kind::Exact);
        let (exact, theirs) = (read(&exact_file), read(&vectors(name, of, Kind::LlamaCpp)));
        let against = exact_file.display().to_string();
        let ours = eval(model, &text(of), &["--against", &against, "--greedy", "0"]);
        assert_eq!(
            ours.prompt_tokens, exact.prompt_tokens,
            "{name} {of}: the text has these tokens"
        );

        let from_truth = |positions| distance(&exact.positions, positions);
        let (ours_kl, theirs_kl) = (from_truth(&ours.positions), from_truth(&theirs.positions));
        let full_kl = ours.comparison["mean_kl"].as_f64().expect("a mean");
        eprintln!(
            "{name} {of}: KL {ours_kl:.5} ({full_kl:.5} over all tokens), llama.cpp {theirs_kl:.5}"
        );
        ours_sum += ours_kl;
        full_sum += full_kl;
        theirs_sum += theirs_kl;
    }
    assert!(
        ours_sum <= theirs_sum,
        "{name}: KL {ours_sum} over three texts, llama.cpp {theirs_sum}"
    );
    assert!(
        full_sum <= theirs_sum,
        "{name}: KL {full_sum} over all tokens, llama.cpp {theirs_sum}"
    );
}

#[test]
fn the_path_in_f32_gives_the_logits_of_smollm2() {
    for of in TEXTS {
        gives_the_logits(SMOLLM2, &model(SMOLLM2), of);
    }
}

#[test]
fn the_path_in_f32_gives_the_logits_of_gemma3() {
    let texts = if long_form() { &TEXTS[..] } else { &TEXTS[..1] };
    for of in texts {
        gives_the_logits(GEMMA3, &model(GEMMA3), of);
    }
}

#[test]
fn the_path_in_f32_gives_the_logits_of_qwen() {
    // It takes 6 GB of memory and minutes.
    match model_if_wanted(QWEN).filter(|_| long_form()) {
        Some(path) => TEXTS
            .iter()
            .for_each(|of| gives_the_logits(QWEN, &path, of)),
        None => eprintln!("skipped: the path in f32 of {QWEN} runs with POTLUCK_TEST_LONG=1"),
    }
}

/// The logits, and the continuation that follows from them.
fn gives_the_logits(name: &str, model: &std::path::Path, of: &str) {
    let exact_file = vectors(name, of, Kind::Exact);
    let exact = read(&exact_file);
    let n_greedy = exact.greedy.len().to_string();
    let against = exact_file.display().to_string();
    let more = ["--reference", "--against", &against, "--greedy", &n_greedy];
    let ours = eval(model, &text(of), &more);

    assert_eq!(ours.prompt_tokens, exact.prompt_tokens);
    let comparison = &ours.comparison;
    eprintln!("{name} {of}: {comparison}");
    assert_eq!(
        comparison["decided_same_top"], comparison["decided"],
        "{name} {of}: {comparison}"
    );
    let mean_kl = comparison["mean_kl"].as_f64().expect("a mean");
    assert!(mean_kl <= ROUNDING, "{name} {of}: {comparison}");
    assert_eq!(ours.greedy, exact.greedy, "{name} {of}: the continuation");
}
