//! Tools: what the model is told of them, and what becomes of its calls.

use serde_json::{Value, json};

use crate::client::{Reply, ask, chat, with};
use crate::model;
use crate::server::{self, Server, Setup, USUAL};

const HERMES: Setup = Setup {
    context_tokens: 4096,
    template: Some(model::HERMES),
    ..USUAL
};

const MISTRAL: Setup = Setup {
    template: Some(model::MISTRAL),
    ..HERMES
};

const CALL: &str = r#"<tool_call>{"name": "f", "arguments": {"x": [1, "é"]}}</tool_call>"#;

fn tools() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    json!({"tools": [tool("f"), tool("g")]})
}

/// A reply to a question with tools, which must be a good one.
async fn said(server: &Server, says: &str, options: Value) -> Reply {
    let body = with(with(chat(&format!("say:{says}")), tools()), options);
    let reply = ask(server.address, &body).await;
    assert_eq!(reply.status, 200, "{says}: {}", reply.body);
    reply
}

async fn choice(server: &Server, says: &str, options: Value) -> Value {
    said(server, says, options).await.json()["choices"][0].clone()
}

/// Message and reason of a streamed reply, put together as clients do.
fn assembled(reply: &Reply) -> (Value, Value) {
    let (mut content, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    for chunk in reply.chunks() {
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        for part in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let index = part["index"].as_u64().unwrap() as usize;
            let more = part["function"]["arguments"].as_str().unwrap();
            if index == calls.len() {
                let mut call = part.clone();
                call.as_object_mut().unwrap().remove("index");
                calls.push(call);
            } else {
                let call = &mut calls[index]["function"]["arguments"];
                *call = json!(format!("{}{more}", call.as_str().unwrap()));
                assert!(part.get("id").is_none() && part["function"].get("name").is_none());
            }
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    (json!({"content": content, "tool_calls": calls}), reason)
}

/// A message without the random ids of its calls.
fn without_ids(mut message: Value) -> Value {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        call.as_object_mut().unwrap().remove("id");
    }
    message
}

#[tokio::test]
async fn a_call_has_openais_shape() {
    let server = server::start(HERMES).await;
    let choice = choice(&server, CALL, json!({})).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let id = choice["message"]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() == 29, "{id}");
    let function = json!({"name": "f", "arguments": r#"{"x": [1, "é"]}"#});
    assert_eq!(
        choice["message"]["tool_calls"],
        json!([{"id": id, "type": "function", "function": function}])
    );
    let prompt = server.ring.prompt.borrow().clone();
    assert!(
        prompt.starts_with(r#"|tools:[{"type": "function", "function": {"name": "f""#),
        "{prompt}"
    );
}

#[tokio::test]
async fn a_streamed_call_comes_as_a_head_and_its_arguments() {
    let server = server::start(HERMES).await;
    let reply = said(&server, CALL, json!({"stream": true})).await;
    let chunks = reply.chunks();
    let deltas: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    let id = &deltas[1]["tool_calls"][0]["id"];
    assert!(id.as_str().unwrap().starts_with("call_"));
    let head = json!({"index": 0, "id": id, "type": "function", "function": {"name": "f", "arguments": ""}});
    let arguments = json!({"index": 0, "function": {"arguments": r#"{"x": [1, "é"]}"#}});
    let expected = [
        json!({"role": "assistant", "content": null}),
        json!({"tool_calls": [head]}),
        json!({"tool_calls": [arguments]}),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn whole_and_streamed_replies_say_the_same() {
    let server = server::start(HERMES).await;
    let bare = r#"{"name": "g", "parameters": {}}"#;
    let cases = [
        (
            format!("I look. {CALL}\n{CALL}"),
            "I look. ",
            2,
            "tool_calls",
        ),
        (format!("{CALL} and more"), " and more", 1, "tool_calls"),
        (bare.to_owned(), "", 1, "tool_calls"),
        ("no call".to_owned(), "no call", 0, "stop"),
        (
            "<tool_call>{\"name\": oops}".to_owned(),
            "<tool_call>{\"name\": oops}",
            0,
            "stop",
        ),
        (
            "<tool_call>f()</tool_call>".to_owned(),
            "<tool_call>f()</tool_call>",
            0,
            "stop",
        ),
        (
            "{\"name\": \"h\", \"arguments\": {}}".to_owned(),
            "{\"name\": \"h\", \"arguments\": {}}",
            0,
            "stop",
        ),
        ("1 <tool".to_owned(), "1 <tool", 0, "stop"),
    ];
    for (says, content, n_calls, reason) in cases {
        let whole = choice(&server, &says, json!({})).await;
        let (message, streamed_reason) =
            assembled(&said(&server, &says, json!({"stream": true})).await);
        assert_eq!(message["content"], content, "{says}");
        assert_eq!(
            message["tool_calls"].as_array().unwrap().len(),
            n_calls,
            "{says}"
        );
        assert_eq!(
            (&whole["finish_reason"], &streamed_reason),
            (&json!(reason), &json!(reason)),
            "{says}"
        );
        let mut expected = without_ids(message);
        expected["role"] = json!("assistant");
        if n_calls == 0 {
            expected.as_object_mut().unwrap().remove("tool_calls");
        } else if content.is_empty() {
            expected["content"] = Value::Null;
        }
        assert_eq!(without_ids(whole["message"].clone()), expected, "{says}");
    }
    server::until_idle(&server).await;
}

#[tokio::test]
async fn marks_that_are_control_tokens_are_seen_when_tools_are_offered() {
    let server = server::start(MISTRAL).await;
    let says = "\u{7}f[ARGS]{\"x\": 1}\u{7}[{\"name\": \"g\", \"arguments\": {}}]";
    let message = choice(&server, says, json!({})).await["message"].clone();
    let calls = message["tool_calls"].as_array().unwrap();
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(
        *functions[0],
        json!({"name": "f", "arguments": "{\"x\": 1}"})
    );
    assert_eq!(*functions[1], json!({"name": "g", "arguments": "{}"}));
    // The template takes ids of nine letters, and this is what it gets.
    let results = calls
        .iter()
        .map(|call| json!({"role": "tool", "content": "1", "tool_call_id": call["id"]}));
    let mut messages = vec![json!({"role": "user", "content": "x"}), message.clone()];
    messages.extend(results);
    messages.push(json!({"role": "user", "content": "say:done"}));
    let reply = ask(
        server.address,
        &with(json!({"messages": messages}), tools()),
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "done");
    let broken = choice(&server, "\u{7}?", json!({})).await["message"].clone();
    assert_eq!(broken["content"], "[TOOL_CALLS]?", "nothing is lost");
    let plain = ask(server.address, &chat("say:a\u{7}b")).await.json();
    assert_eq!(
        plain["choices"][0]["message"]["content"], "ab",
        "without tools it stands for no text"
    );
}

#[tokio::test]
async fn tools_that_must_not_be_called_are_not_offered() {
    let server = server::start(HERMES).await;
    let choice = choice(&server, CALL, json!({"tool_choice": "none"})).await;
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": CALL})
    );
    assert_eq!(choice["finish_reason"], "stop");
    assert!(!server.ring.prompt.borrow().contains("tools:"));
}

#[tokio::test]
async fn one_call_is_given_where_one_is_wanted() {
    let server = server::start(HERMES).await;
    let one = json!({"parallel_tool_calls": false});
    let message = choice(&server, &format!("{CALL}{CALL} more"), one).await["message"].clone();
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(message["content"], Value::Null);
}

#[tokio::test]
async fn calls_and_results_go_back_to_the_model() {
    let server = server::start(HERMES).await;
    let mut message = choice(&server, CALL, json!({})).await["message"].clone();
    let id = message["tool_calls"][0]["id"].take();
    message["tool_calls"][0]["id"] = id.clone();
    let messages = json!([
        {"role": "user", "content": "x"},
        message,
        {"role": "tool", "content": "42", "tool_call_id": id},
        {"role": "user", "content": "say:ok"},
    ]);
    let reply = ask(
        server.address,
        &with(json!({"messages": messages}), tools()),
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let prompt = server.ring.prompt.borrow().clone();
    assert!(prompt.contains("|user:x|assistant:<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": [1, \"é\"]}}</tool_call>|tool:42|"), "{prompt}");
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_text() {
    let server = server::start(HERMES).await;
    let choice = choice(&server, CALL, json!({"max_tokens": 20})).await;
    assert_eq!(choice["message"]["content"], CALL[..20]);
    assert_eq!(choice["finish_reason"], "length");
}
