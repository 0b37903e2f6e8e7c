//! Anthropic's messages: what the model is told, and what becomes of its answer, whole and streamed.

use serde_json::{Value, json};

use crate::client::{Reply, ask_at, with};
use crate::model;
use crate::server::{self, Server, Setup, USUAL};

pub const HERMES: Setup = Setup {
    context_tokens: 4096,
    template: Some(model::HERMES),
    ..USUAL
};

const CALL: &str = r#"<tool_call>{"name": "f", "arguments": {"x": [1, "é"]}}</tool_call>"#;

/// A question with room for its answer.
pub fn question(text: &str) -> Value {
    json!({"max_tokens": 200, "messages": [{"role": "user", "content": text}]})
}

pub async fn post(server: &Server, body: &Value) -> Reply {
    ask_at(server.address, "/v1/messages", body).await
}

/// The message that the model answers with `says`.
async fn message(server: &Server, says: &str, options: Value) -> Value {
    let reply = post(server, &with(question(&format!("say:{says}")), options)).await;
    assert_eq!(reply.status, 200, "{says}: {}", reply.body);
    reply.json()
}

/// Names and data of a stream's events.
pub fn events(reply: &Reply) -> Vec<(String, Value)> {
    let events = reply
        .body
        .split("\n\n")
        .filter(|event| !event.is_empty() && *event != ":");
    let field = |event: &str, name: &str| {
        event
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned)
    };
    events
        .map(|event| {
            assert!(event.starts_with("event: "), "the name is first: {event}");
            let name = field(event, "event: ").expect("a name");
            let data = field(event, "data: ").expect("data");
            (name, serde_json::from_str(&data).expect("JSON"))
        })
        .collect()
}

/// Content, reason and stop string of a streamed message, put together as clients do, after its order was checked.
fn assembled(reply: &Reply) -> Value {
    let mut events = events(reply).into_iter();
    let (name, start) = events.next().unwrap();
    assert_eq!(name, "message_start");
    let mut message = start["message"].clone();
    let (mut blocks, mut inputs, mut open) = (Vec::<Value>::new(), Vec::<String>::new(), false);
    for (name, data) in &mut events {
        assert_eq!(data["type"], name);
        if name == "message_delta" {
            message["stop_reason"] = data["delta"]["stop_reason"].clone();
            message["stop_sequence"] = data["delta"]["stop_sequence"].clone();
            message["usage"]["output_tokens"] = data["usage"]["output_tokens"].clone();
            break;
        }
        match name.as_str() {
            "content_block_start" => {
                assert!(!std::mem::replace(&mut open, true));
                blocks.push(data["content_block"].clone());
                inputs.push(String::new());
            }
            "content_block_delta" => {
                let (delta, block) = (&data["delta"], blocks.last_mut().unwrap());
                let grown = |block: &Value, field: &str| {
                    let (text, more) = (block[field].as_str(), delta[field].as_str());
                    json!([text.unwrap(), more.unwrap()].concat())
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => block["text"] = grown(block, "text"),
                    "thinking_delta" => block["thinking"] = grown(block, "thinking"),
                    "input_json_delta" => {
                        let more = delta["partial_json"].as_str().unwrap();
                        inputs.last_mut().unwrap().push_str(more);
                        let input = inputs.last().unwrap();
                        block["input"] = serde_json::from_str(input).unwrap();
                    }
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => assert!(std::mem::replace(&mut open, false)),
            other => panic!("{other}"),
        }
        assert_eq!(data["index"], blocks.len() - 1);
    }
    assert!(!open);
    let end = ("message_stop".to_owned(), json!({"type": "message_stop"}));
    assert_eq!(events.collect::<Vec<_>>(), [end]);
    message["content"] = json!(blocks);
    message
}

/// A message without what differs from one to the next.
fn without_ids(mut message: Value) -> Value {
    message["id"].take();
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            block["id"].take();
        }
    }
    message
}

fn tools() -> Value {
    let schema = json!({"type": "object"});
    json!({"tools": [
        {"name": "f", "description": "does f", "input_schema": schema, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "g", "input_schema": schema},
    ]})
}

#[tokio::test]
async fn a_message_has_anthropics_shape() {
    let server = server::start(USUAL).await;
    let message = message(&server, "hi", json!({"model": model::NAME})).await;
    let id = message["id"].as_str().unwrap();
    assert!(id.starts_with("msg_") && id.len() == 36, "{id}");
    // BOS, "user:", "say:hi", </s>, "assistant:"; and two letters.
    let usage = json!({"input_tokens": 23, "output_tokens": 2});
    assert_eq!(
        message,
        json!({
            "id": id, "type": "message", "role": "assistant", "model": model::NAME,
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn", "stop_sequence": null, "usage": usage,
        })
    );
}

#[tokio::test]
async fn a_stream_has_anthropics_order() {
    let server = server::start(HERMES).await;
    let says = format!("<think>m</think>o{CALL}");
    let body = with(
        question(&format!("say:{says}")),
        with(tools(), json!({"stream": true})),
    );
    let reply = post(&server, &body).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = events(&reply);
    let opening = &events[0].1["message"];
    let empty = json!({"content": [], "stop_reason": null, "stop_sequence": null});
    for (field, value) in empty.as_object().unwrap() {
        assert_eq!(opening[field], *value, "{field}");
    }
    assert_eq!(opening["usage"]["output_tokens"], 0);
    let id = &events[7].1["content_block"]["id"];
    assert!(id.as_str().unwrap().starts_with("toolu_"), "{id}");
    let call = json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
    let start = |index: u32, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u32, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: u32| json!({"type": "content_block_stop", "index": index});
    let arguments = r#"{"x": [1, "é"]}"#;
    let usage =
        json!({"input_tokens": opening["usage"]["input_tokens"], "output_tokens": says.len()});
    let expected = [
        start(
            0,
            json!({"type": "thinking", "thinking": "", "signature": ""}),
        ),
        delta(0, json!({"type": "thinking_delta", "thinking": "m"})),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": "o"})),
        stop(1),
        start(2, call),
        delta(
            2,
            json!({"type": "input_json_delta", "partial_json": arguments}),
        ),
        stop(2),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": usage}),
        json!({"type": "message_stop"}),
    ];
    let said: Vec<&Value> = events[1..].iter().map(|(_, data)| data).collect();
    assert_eq!(said, expected.iter().collect::<Vec<_>>());
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    server::until_idle(&server).await;
}

#[tokio::test]
async fn whole_and_streamed_messages_say_the_same() {
    let server = server::start(HERMES).await;
    let text = |text: &str| json!({"type": "text", "text": text});
    let thinking = |text: &str| json!({"type": "thinking", "thinking": text, "signature": ""});
    let call = json!({"type": "tool_use", "id": null, "name": "f", "input": {"x": [1, "é"]}});
    let stops = json!({"stop_sequences": ["END", "\n\n"]});
    let cases = [
        (
            "yes".to_owned(),
            json!({}),
            json!([text("yes")]),
            "end_turn",
            Value::Null,
        ),
        (String::new(), json!({}), json!([]), "end_turn", Value::Null),
        (
            "long".to_owned(),
            json!({"max_tokens": 2}),
            json!([text("lo")]),
            "max_tokens",
            Value::Null,
        ),
        (
            "a END b".to_owned(),
            stops.clone(),
            json!([text("a ")]),
            "stop_sequence",
            json!("END"),
        ),
        (
            "a\n\nb".to_owned(),
            stops.clone(),
            json!([text("a")]),
            "stop_sequence",
            json!("\n\n"),
        ),
        (
            "<think>\nhm\n</think>\n\nso".to_owned(),
            json!({}),
            json!([thinking("hm"), text("so")]),
            "end_turn",
            Value::Null,
        ),
        (
            format!("I look. {CALL}{CALL}"),
            json!({}),
            json!([text("I look. "), call, call]),
            "tool_use",
            Value::Null,
        ),
        (
            format!("{CALL}x ENDy"),
            stops,
            json!([call, text("x ")]),
            "tool_use",
            Value::Null,
        ),
        (
            format!("{CALL}{CALL}"),
            json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}}),
            json!([call]),
            "tool_use",
            Value::Null,
        ),
        (
            CALL.to_owned(),
            json!({"tool_choice": {"type": "none"}}),
            json!([text(CALL)]),
            "end_turn",
            Value::Null,
        ),
    ];
    for (says, options, content, reason, stop) in cases {
        let options = with(tools(), options);
        let whole = without_ids(message(&server, &says, options.clone()).await);
        assert_eq!(whole["content"], content, "{says}");
        assert_eq!(whole["stop_reason"], reason, "{says}");
        assert_eq!(whole["stop_sequence"], stop, "{says}");
        let body = with(
            question(&format!("say:{says}")),
            with(options, json!({"stream": true})),
        );
        let streamed = without_ids(assembled(&post(&server, &body).await));
        assert_eq!(streamed, whole, "{says}");
    }
    server::until_idle(&server).await;
}

#[tokio::test]
async fn the_model_is_told_everything() {
    let server = server::start(HERMES).await;
    let ephemeral = json!({"type": "ephemeral"});
    let body = json!({
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be ", "cache_control": ephemeral}, {"type": "text", "text": "kind."}],
        "metadata": {"user_id": "ann"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": ephemeral}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": true, "content": [{"type": "text", "text": "no"}]},
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                {"type": "text", "text": "say:ok"},
            ]},
        ],
    });
    let reply = post(&server, &with(body, tools())).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["content"][0]["text"], "ok");
    let schema = r#""parameters": {"type": "object"}"#;
    let calls = r#"<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>"#;
    assert_eq!(
        *server.ring.prompt.borrow(),
        format!(
            "|tools:[{{\"type\": \"function\", \"function\": {{\"name\": \"f\", \"description\": \"does f\", {schema}}}}}, \
             {{\"type\": \"function\", \"function\": {{\"name\": \"g\", {schema}}}}}]|system:Be kind.|user:ab|\
             assistant:I look.{calls}|tool:42|tool:Error: no|tool:|user:say:ok|assistant:"
        )
    );
}

#[tokio::test]
async fn an_answer_that_was_begun_goes_on() {
    let server = server::start(USUAL).await;
    for begun in [
        json!("Once up"),
        json!([{"type": "text", "text": "Once up"}]),
    ] {
        let messages =
            json!([{"role": "user", "content": "say:on"}, {"role": "assistant", "content": begun}]);
        let reply = post(&server, &json!({"max_tokens": 9, "messages": messages})).await;
        assert_eq!(
            reply.json()["content"],
            json!([{"type": "text", "text": "on"}])
        );
        assert_eq!(
            *server.ring.prompt.borrow(),
            "|user:say:on|assistant:Once up"
        );
    }
}

#[tokio::test]
async fn thinking_is_asked_for_or_not() {
    let server = server::start(HERMES).await;
    let thinking = json!([{"type": "thinking", "thinking": "m", "signature": ""}, {"type": "text", "text": "so"}]);
    let cases = [
        (
            json!({"type": "enabled", "budget_tokens": 1024}),
            "assistant:<think>\n",
            thinking,
        ),
        (
            json!({"type": "disabled"}),
            "assistant:",
            json!([{"type": "text", "text": "m</think>so"}]),
        ),
    ];
    for (asked, end, content) in cases {
        let message = message(&server, "m</think>so", json!({"thinking": asked})).await;
        assert_eq!(message["content"], content, "{asked}");
        assert!(server.ring.prompt.borrow().ends_with(end), "{asked}");
    }
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_used() {
    let server = server::start(HERMES).await;
    let body = with(
        question("say:hi"),
        with(tools(), json!({"system": "Be kind."})),
    );
    let used = post(&server, &body).await.json()["usage"]["input_tokens"].clone();
    let mut body = body;
    body.as_object_mut().unwrap().remove("max_tokens");
    let count = ask_at(server.address, "/v1/messages/count_tokens", &body).await;
    assert_eq!(count.json(), json!({"input_tokens": used}));
    // More than the context holds is a number as well.
    let long = question(&"a".repeat(10_000));
    let count = ask_at(server.address, "/v1/messages/count_tokens", &long).await;
    assert_eq!(count.json(), json!({"input_tokens": 10_017}));
}
