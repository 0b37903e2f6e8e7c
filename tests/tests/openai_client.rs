//! OpenAI's own client for Python, unchanged, against a cluster of two workers.

use potluck_tests::cluster::Cluster;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::python;
use serde_json::Value;

/// The client, and the version that was current when this was written.
const CLIENT: &str = "openai==2.14.0";

/// Context of the cluster: small, so that a prompt is soon too long.
const CONTEXT: u64 = 1024;

#[test]
fn openais_own_client_gets_what_it_expects() {
    let (cluster, model) = (Cluster::default(), model(SMOLLM2));
    let coordinator = cluster.serve(&model, 2, &["--context", &CONTEXT.to_string()]);
    let _workers = ["ann", "bob"].map(|name| cluster.worker(name, &[]));
    coordinator.ready(0);
    let base_url = format!("http://{}/v1", coordinator.http.address);
    let said = python::talk(CLIENT, "openai_chat.py", &[&base_url]);

    assert_eq!(said["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(said["retrieved"], said["models"][0]);
    answers_are_complete(&said);
    streams_are_the_same_answers(&said);
    limits_are_kept(&said);
    seeds_decide(&said);
    log_probabilities_are_typed(&said);
    refusals_are_typed(&said);
}

fn answers_are_complete(said: &Value) {
    let whole = &said["whole"];
    assert_eq!(whole["role"], "assistant");
    let tokens = |key: &str| {
        whole[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key}: {whole}"))
    };
    assert_eq!(
        tokens("total_tokens"),
        tokens("prompt_tokens") + tokens("completion_tokens")
    );
    assert!(tokens("prompt_tokens") > 10 && (1..=24).contains(&tokens("completion_tokens")));
    assert_ne!(
        said["with_system"]["text"], whole["text"],
        "the system message counts"
    );
    for text in said["at_the_same_time"].as_array().expect("answers") {
        assert_eq!(*text, whole["text"], "the same answer beside others");
    }
}

fn streams_are_the_same_answers(said: &Value) {
    let (whole, streamed) = (&said["whole"], &said["streamed"]);
    assert_eq!(streamed["text"], whole["text"]);
    assert_eq!(streamed["finish_reason"], whole["finish_reason"]);
    assert!(
        streamed["pieces"].as_u64() > Some(5),
        "it comes in pieces: {streamed}"
    );
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(streamed["usage"][key], whole[key], "{key}");
    }
    let plain = &said["streamed_without_usage"];
    assert_eq!(
        (&plain["text"], &plain["usage"]),
        (&whole["text"], &Value::Null)
    );
}

fn limits_are_kept(said: &Value) {
    let (stop, text) = (string(&said["stop"]), string(&said["whole"]["text"]));
    let before = text.split(stop).next().expect("what comes before");
    for key in ["stopped", "stopped_in_stream"] {
        assert_eq!(said[key]["text"], before, "{key} at {stop:?}");
        assert_eq!(said[key]["finish_reason"], "stop", "{key}");
    }
    for key in ["short", "short_by_newer_name"] {
        let short = &said[key];
        assert_eq!(short["finish_reason"], "length", "{key}");
        assert_eq!(short["completion_tokens"], 5, "{key}");
        assert!(text.starts_with(string(&short["text"])), "{key}: {short}");
    }
}

fn seeds_decide(said: &Value) {
    assert_eq!(said["seed_7"]["text"], said["seed_7_again"]["text"]);
    assert_ne!(said["seed_7"]["text"], said["seed_8"]["text"]);
    assert_ne!(said["seed_7"]["text"], said["whole"]["text"]);
}

fn log_probabilities_are_typed(said: &Value) {
    let choices = said["likely"].as_array().expect("choices");
    assert_eq!(choices.len(), 2);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["text"], said["whole"]["text"], "the most likely");
        assert_eq!(choice["tokens"], choice["text"]);
        assert_eq!(choice["bytes"], string(&choice["text"]).len());
        assert_eq!(choice["logprobs"], said["likely_streamed"]);
        for (logprob, top) in list(&choice["logprobs"]).iter().zip(list(&choice["tops"])) {
            assert_eq!((&top[0], list(top).len()), (logprob, 2));
        }
    }
    assert_eq!(said["biased"]["role"], "assistant");
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {value}"))
}

fn refusals_are_typed(said: &Value) {
    let expected = [
        ("unknown_model", "NotFoundError", 404, "gpt-17"),
        ("too_long", "BadRequestError", 400, "1024 tokens"),
        ("too_hot", "BadRequestError", 400, "temperature"),
        ("no_messages", "BadRequestError", 400, "messages"),
    ];
    for (key, class, status, part) in expected {
        let refused = &said[key];
        assert_eq!(refused["class"], class, "{key}: {refused}");
        assert_eq!(refused["status"], status, "{key}: {refused}");
        assert!(
            string(&refused["body"]["message"]).contains(part),
            "{key}: {refused}"
        );
    }
    let too_long = &said["too_long"]["body"];
    assert_eq!(too_long["n_ctx"], CONTEXT);
    assert!(
        too_long["n_prompt_tokens"].as_u64() > Some(CONTEXT),
        "{too_long}"
    );
}

fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}
