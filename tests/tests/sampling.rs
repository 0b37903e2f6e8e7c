//! Options of sampling on a real model: the same answers and the same log-probabilities on one worker and on two.

use potluck_tests::cluster::Cluster;
use potluck_tests::http::Http;
use potluck_tests::models::{SMOLLM2, model};
use serde_json::{Value, json};

const QUESTION: &str = "What is the capital of France?";

/// The choices of every request that a cluster of these workers is asked.
#[derive(Debug, PartialEq)]
struct Answers {
    plain: Value,
    with_logprobs: Value,
    first_token_forbidden: Value,
    three: Value,
    one_of_three: Value,
    endless: Value,
    all_options: Value,
}

#[test]
fn one_worker_and_two_give_the_same() {
    let one = answers_of(&["ann"]);
    assert_eq!(one, answers_of(&["ann", "bob"]));
    log_probabilities_belong_to_the_answer(&one);
    what_is_forbidden_makes_room_for_the_next(&one);
    choices_differ_and_the_first_is_the_only_one(&one);
    assert_eq!(one.endless[0]["finish_reason"], "length");
    assert_ne!(text(&one.all_options[0]), text(&one.plain[0]));
}

fn answers_of(workers: &[&str]) -> Answers {
    let (cluster, model) = (Cluster::default(), model(SMOLLM2));
    let coordinator = cluster.serve(&model, workers.len(), &[]);
    let _workers: Vec<_> = workers
        .iter()
        .map(|name| cluster.worker(name, &[]))
        .collect();
    coordinator.ready(0);
    let http = &coordinator.http;
    let with_logprobs = ask(http, json!({"logprobs": true, "top_logprobs": 3}));
    let first = entries(&with_logprobs[0])[0]["id"].to_string();
    let diced = |n: u32| json!({"n": n, "seed": 7, "temperature": 0.9});
    Answers {
        plain: ask(http, json!({})),
        first_token_forbidden: ask(http, json!({"logprobs": true, "logit_bias": {first: -100}})),
        with_logprobs,
        three: ask(http, diced(3)),
        one_of_three: ask(http, diced(1)),
        endless: ask(http, json!({"ignore_eos": true, "max_tokens": 48})),
        all_options: ask(
            http,
            json!({
                "logprobs": true, "top_logprobs": 20, "seed": 7, "temperature": 0.9, "repeat_penalty": 1.1,
                "repeat_last_n": -1, "typical_p": 0.95, "top_n_sigma": 3, "xtc_probability": 0.5,
                "dynatemp_range": 0.4, "dynatemp_exponent": 1.5, "logit_bias": [[" Paris", -5]],
            }),
        ),
    }
}

fn ask(http: &Http, mut options: Value) -> Value {
    if options.get("max_tokens").is_none() {
        options["max_tokens"] = json!(12);
    }
    http.chat(QUESTION, options).ok()["choices"].clone()
}

fn log_probabilities_belong_to_the_answer(answers: &Answers) {
    let choice = &answers.with_logprobs[0];
    assert_eq!(
        text(choice),
        text(&answers.plain[0]),
        "asking changes nothing"
    );
    let mut bytes = Vec::new();
    for entry in entries(choice) {
        let top = entry["top_logprobs"].as_array().expect("likely tokens");
        assert_eq!(top.len(), 3);
        assert_eq!(top[0]["id"], entry["id"], "the most likely token is taken");
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        let probability = |token: &Value| token["logprob"].as_f64().expect("a number").exp();
        let sum: f64 = top.iter().map(probability).sum();
        assert!(sum <= 1.0 + 1e-6 && probability(&top[0]) >= probability(&top[1]));
        let of_token: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
        bytes.extend(of_token);
    }
    assert_eq!(String::from_utf8_lossy(&bytes), text(choice));
}

/// Likelihoods are the model's own, so the token that is left is as likely as it was in the second place.
fn what_is_forbidden_makes_room_for_the_next(answers: &Answers) {
    let second = &entries(&answers.with_logprobs[0])[0]["top_logprobs"][1];
    let first = &entries(&answers.first_token_forbidden[0])[0];
    assert_eq!(
        (&first["id"], &first["logprob"]),
        (&second["id"], &second["logprob"])
    );
}

fn choices_differ_and_the_first_is_the_only_one(answers: &Answers) {
    let texts = [0, 1, 2].map(|index| text(&answers.three[index]));
    assert_eq!(texts[0], text(&answers.one_of_three[0]));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
}

fn text(choice: &Value) -> &str {
    let text = choice["message"]["content"].as_str();
    text.unwrap_or_else(|| panic!("no text: {choice}"))
}

fn entries(choice: &Value) -> &[Value] {
    let entries = choice["logprobs"]["content"].as_array();
    entries.unwrap_or_else(|| panic!("no log-probabilities: {choice}"))
}
