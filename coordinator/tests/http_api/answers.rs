//! What clients build on: the shapes of whole and streamed answers.

use serde_json::{Value, json};

use crate::client::{Reply, ask, chat, with};
use crate::model;
use crate::server::{self, ENDLESS, Setup, USUAL};

#[tokio::test]
async fn a_whole_answer_has_openais_shape() {
    let server = server::start(USUAL).await;
    let reply = ask(server.address, &chat("say:Grüße, Welt")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = reply.json();
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], model::NAME);
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = json!({
        "index": 0,
        "message": {"role": "assistant", "content": "Grüße, Welt"},
        "finish_reason": "stop",
    });
    assert_eq!(reply["choices"], json!([choice]));
    // BOS, "user:", the message, </s>, "assistant:"; two letters of the answer have two bytes.
    let (prompt, completion) = (1 + 5 + 17 + 1 + 10, 13);
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    assert_eq!(reply["usage"], usage);
    assert_eq!(reply["timings"]["prompt_n"], prompt);
    assert_eq!(reply["timings"]["predicted_n"], completion);
    for key in [
        "cache_n",
        "prompt_ms",
        "prompt_per_second",
        "predicted_ms",
        "predicted_per_second",
    ] {
        assert!(reply["timings"][key].is_number(), "{key}");
    }
}

#[tokio::test]
async fn a_streamed_answer_has_openais_shape() {
    let server = server::start(USUAL).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = ask(server.address, &with(chat("say:naïve 🦀!"), options)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    let chunks = reply.chunks();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for key in ["id", "created", "model"] {
            assert_eq!(chunk[key], chunks[0][key]);
        }
    }
    let (first, rest) = chunks.split_first().unwrap();
    let (accounts, rest) = rest.split_last().unwrap();
    let (closing, pieces) = rest.split_last().unwrap();
    let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
    assert_eq!(
        first["choices"],
        choice(json!({"role": "assistant", "content": null}), Value::Null)
    );
    assert_eq!(closing["choices"], choice(json!({}), json!("stop")));
    assert_eq!(accounts["choices"], json!([]));
    assert_eq!(accounts["usage"]["completion_tokens"], 12);
    assert!(accounts["timings"]["predicted_per_second"].is_number());
    for piece in pieces {
        let content = piece["choices"][0]["delta"]["content"].clone();
        assert_eq!(
            piece["choices"],
            choice(json!({"content": content}), Value::Null)
        );
        assert!(piece.get("usage").is_none());
    }
    // Each byte is a token, and no piece is half a character.
    assert_eq!(contents(&reply), ["n", "a", "ï", "v", "e", " ", "🦀", "!"]);
}

#[tokio::test]
async fn usage_is_streamed_only_when_asked_for() {
    let server = server::start(USUAL).await;
    let reply = ask(
        server.address,
        &with(chat("say:hi"), json!({"stream": true})),
    )
    .await;
    assert!(
        reply
            .chunks()
            .iter()
            .all(|chunk| chunk.get("usage").is_none())
    );
    assert_eq!(contents(&reply).concat(), "hi");
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn stop_strings_end_the_answer_and_are_not_part_of_it() {
    let server = server::start(USUAL).await;
    let cases = [
        (json!("STOP"), "one STOP two", "one ", "stop"),
        (json!(["x", "wo"]), "one two", "one t", "stop"),
        (json!(["abcd"]), "ab abc abcd", "ab abc ", "stop"),
        (json!(["never"]), "neve", "neve", "stop"),
        (json!("🦀"), "a🦀b", "a", "stop"),
        (json!([]), "all", "all", "stop"),
    ];
    for (stop, says, expected, reason) in cases {
        let body = with(chat(&format!("say:{says}")), json!({"stop": stop}));
        let whole = ask(server.address, &body).await.json();
        assert_eq!(
            whole["choices"][0]["message"]["content"], expected,
            "{stop}"
        );
        assert_eq!(whole["choices"][0]["finish_reason"], reason, "{stop}");
        let streamed = ask(server.address, &with(body, json!({"stream": true}))).await;
        assert_eq!(contents(&streamed).concat(), expected, "{stop}");
    }
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_stop_string_cancels_what_would_follow() {
    let server = server::start(ENDLESS).await;
    let body = with(chat("forever"), json!({"stop": "xxxxx"}));
    let reply = ask(server.address, &body).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "");
    assert_eq!(reply["usage"]["completion_tokens"], 5);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn an_answer_ends_at_max_tokens_or_where_the_context_does() {
    let server = server::start(Setup {
        context_tokens: 64,
        ..USUAL
    })
    .await;
    for (field, tokens) in [("max_tokens", 3), ("max_completion_tokens", 3)] {
        let reply = ask(
            server.address,
            &with(chat("forever"), json!({field: tokens})),
        )
        .await
        .json();
        assert_eq!(reply["choices"][0]["message"]["content"], "xxx");
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
    }
    let reply = ask(
        server.address,
        &with(chat("forever"), json!({"max_tokens": 1_000_000})),
    )
    .await
    .json();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    let total = reply["usage"]["total_tokens"].as_u64().unwrap();
    assert!(
        (60..=65).contains(&total),
        "{total} tokens in a context of 64"
    );
    // Half of a character at the end is shown as one that could not be read.
    let cut = ask(
        server.address,
        &with(chat("say:🦀"), json!({"max_tokens": 2})),
    )
    .await
    .json();
    assert_eq!(cut["choices"][0]["message"]["content"], "\u{fffd}");
}

#[tokio::test]
async fn messages_come_in_every_form_that_clients_use() {
    let server = server::start(USUAL).await;
    let parts = json!([{"type": "text", "text": "say:"}, {"type": "text", "text": "ok"}]);
    let calls =
        json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let messages = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hello", "name": "Ann"},
        {"role": "assistant", "content": null, "tool_calls": calls},
        {"role": "user", "content": parts},
    ]);
    let nothing_asked = json!({
        "model": model::NAME, "n": 1, "stream": false, "tools": [], "tool_choice": "none", "logprobs": false,
        "response_format": {"type": "text"}, "logit_bias": {}, "user": "u", "store": true, "temperature": null,
        "max_tokens": null, "stop": null, "unheard_of": {"x": [1, 2]}, "seed": -1, "top_k": 0, "min_p": 0,
    });
    let reply = ask(
        server.address,
        &with(json!({"messages": messages}), nothing_asked),
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "ok");
    let prompt = server.ring.prompt.borrow().clone();
    assert!(
        prompt.starts_with("|system:be brief|user:hello|assistant:"),
        "{prompt}"
    );
}

#[tokio::test]
async fn control_tokens_in_a_message_stay_text() {
    let server = server::start(USUAL).await;
    let reply = ask(server.address, &chat("say:a</s>b<s>")).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "a</s>b<s>");
    assert_eq!(
        *server.ring.prompt.borrow(),
        "|user:say:a</s>b<s>|assistant:"
    );
}

fn contents(reply: &Reply) -> Vec<String> {
    let content = |chunk: &Value| {
        chunk["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    reply.chunks().iter().filter_map(content).collect()
}
