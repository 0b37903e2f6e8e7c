//! Anthropic's own client for Python, unchanged, against a cluster of two workers.

use potluck_tests::cluster::Cluster;
use potluck_tests::models::{self, QWEN, SMOLLM2, model_if_wanted};
use potluck_tests::python;
use serde_json::{Value, json};

/// The client, and the version that was current when this was written.
const CLIENT: &str = "anthropic==2.14.0";

/// What the client says about a cluster that serves this model.
fn talk(model: &str, n_workers: usize, what: &[&str]) -> Value {
    let (cluster, model) = (Cluster::default(), models::model(model));
    let coordinator = cluster.serve(&model, n_workers, &["--context", "1024"]);
    let names = &["ann", "bob"][..n_workers];
    let _workers: Vec<_> = names.iter().map(|name| cluster.worker(name, &[])).collect();
    coordinator.ready(0);
    let base_url = format!("http://{}", coordinator.http.address);
    let models = coordinator.http.get("/v1/models").ok();
    let name = string(&models["data"][0]["id"]);
    let arguments = [&[base_url.as_str(), name], what].concat();
    python::talk(CLIENT, "anthropic_messages.py", &arguments)
}

#[test]
fn anthropics_own_client_gets_what_it_expects() {
    let said = talk(SMOLLM2, 2, &[]);
    messages_are_complete(&said);
    streams_are_the_same_messages(&said);
    limits_are_kept(&said);
    refusals_are_typed(&said);
}

#[test]
fn anthropics_own_client_gets_calls_of_tools() {
    if model_if_wanted(QWEN).is_none() {
        return;
    }
    let said = talk(QWEN, 1, &["tools"]);
    for (message, call) in [("whole", "call"), ("streamed", "streamed_call")] {
        assert_eq!(said[message]["stop_reason"], "tool_use", "{said}");
        assert_eq!(said[call]["name"], "get_temperature", "{said}");
        assert_eq!(said[call]["input"], json!({"city": "Bonn"}), "{said}");
        assert!(string(&said[call]["id"]).starts_with("toolu_"), "{said}");
    }
    // What so small a model makes of the result is another matter.
    assert_eq!(said["after"]["type"], "message", "{said}");
}

fn messages_are_complete(said: &Value) {
    let whole = &said["whole"];
    assert_eq!(
        (&whole["type"], &whole["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert!(string(&whole["id"]).starts_with("msg_"), "{whole}");
    assert_eq!(whole["blocks"], json!(["text"]));
    assert_eq!(whole["input_tokens"], said["count"]);
    assert!(whole["input_tokens"].as_u64() > Some(10), "{whole}");
    for key in ["with_system", "begun"] {
        assert_ne!(said[key]["text"], whole["text"], "{key} counts");
    }
    assert_eq!(said["with_result"]["type"], "message");
}

fn streams_are_the_same_messages(said: &Value) {
    let without_id = |message: &Value| {
        let mut message = message.clone();
        message["id"].take();
        message
    };
    assert_eq!(without_id(&said["streamed"]), without_id(&said["whole"]));
    let pieces = said["pieces"].as_array().expect("pieces");
    assert!(pieces.len() > 5, "it comes in pieces: {pieces:?}");
    let events: Vec<_> = list(&said["events"]).iter().map(string).collect();
    let (begin, rest) = events.split_at(2);
    assert_eq!(begin, ["message_start", "content_block_start"]);
    let (deltas, end) = rest.split_at(rest.len() - 3);
    assert!(deltas.iter().all(|event| *event == "content_block_delta"));
    assert_eq!(end, ["content_block_stop", "message_delta", "message_stop"]);
}

fn limits_are_kept(said: &Value) {
    let (stop, text) = (string(&said["stop"]), string(&said["whole"]["text"]));
    let stopped = &said["stopped"];
    assert_eq!(stopped["text"], text.split(stop).next().expect("a text"));
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], stop);
    let short = &said["short"];
    assert_eq!(short["stop_reason"], "max_tokens");
    assert_eq!(short["output_tokens"], 5);
    assert!(text.starts_with(string(&short["text"])), "{short}");
}

fn refusals_are_typed(said: &Value) {
    let expected = [
        (
            "unknown_model",
            "NotFoundError",
            404,
            "not_found_error",
            "gpt-17",
        ),
        (
            "too_long",
            "BadRequestError",
            400,
            "invalid_request_error",
            "1024 tokens",
        ),
        (
            "too_hot",
            "BadRequestError",
            400,
            "invalid_request_error",
            "temperature",
        ),
        (
            "forced",
            "BadRequestError",
            400,
            "invalid_request_error",
            "tool_choice",
        ),
    ];
    for (key, class, status, kind, part) in expected {
        let refused = &said[key];
        assert_eq!(refused["class"], class, "{key}: {refused}");
        assert_eq!(refused["status"], status, "{key}: {refused}");
        assert_eq!(refused["body"]["error"]["type"], kind, "{key}: {refused}");
        let message = string(&refused["body"]["error"]["message"]);
        assert!(message.contains(part), "{key}: {refused}");
    }
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {value}"))
}

fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}
