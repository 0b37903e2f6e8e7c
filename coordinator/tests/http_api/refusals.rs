//! Bad requests, as a table: each gets its status, an error of the one shape that names what is wrong, and the server lives.

use serde_json::{Value, json};

use crate::client::{Reply, ask, chat, get, post, send, with};
use crate::model;
use crate::server::{self, Server, USUAL};

/// The error of a reply, after checking its shape.
fn error(what: &str, reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{what}: {}", reply.body);
    let error = reply.json()["error"].clone();
    assert_eq!(error["code"], status, "{what}");
    assert!(error["type"].is_string(), "{what}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|message| message.chars().count() < 700),
        "{what}"
    );
    error
}

async fn still_answers(server: &Server) {
    let reply = ask(server.address, &chat("say:yes")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "yes");
    server::until_idle(server).await;
}

fn every_token_forbidden() -> Vec<Value> {
    (0..model::N_VOCAB).map(|id| json!([id, false])).collect()
}

#[tokio::test]
async fn values_out_of_range_are_refused_by_name() {
    let server = server::start(USUAL).await;
    let cases = [
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1u64 << 31)),
        ("max_tokens", json!(1u64 << 63)),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!("7")),
        ("max_completion_tokens", json!(-5)),
        ("n", json!(0)),
        ("n", json!(17)),
        ("n", json!(1_000_000)),
        ("best_of", json!(2)),
        ("best_of", json!(1_000_000)),
        ("top_k", json!(-5)),
        ("top_k", json!(1u64 << 40)),
        ("top_p", json!(1.1)),
        ("top_p", json!(-0.1)),
        ("min_p", json!(2)),
        ("temperature", json!(999_999)),
        ("temperature", json!(-1)),
        ("temperature", json!("NaN")),
        ("repeat_penalty", json!(0)),
        ("frequency_penalty", json!(3)),
        ("presence_penalty", json!(-2.5)),
        ("seed", json!(-2)),
        ("seed", json!(u64::MAX)),
        ("seed", json!(0.5)),
        ("stop", json!("")),
        ("stop", json!(["a", ""])),
        ("stop", json!([1])),
        ("stop", json!({"a": 1})),
        ("stop", json!(vec!["a"; 17])),
        ("stop", json!(vec!["a"; 10_000])),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": 1})),
        ("model", json!(5)),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(1_000_000)),
        ("top_logprobs", json!(-1)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({"99999999": 5})),
        ("logit_bias", json!({model::N_VOCAB.to_string(): 5})),
        ("logit_bias", json!([[model::N_VOCAB, 5]])),
        ("logit_bias", json!([[u64::MAX, 5]])),
        ("logit_bias", json!([["a".repeat(2049), 5]])),
        ("logit_bias", json!({"five": 5})),
        ("logit_bias.5", json!({"5": true})),
        ("logit_bias.5", json!({"5": 1e9})),
        ("logit_bias[0][0]", json!([[-1, 5]])),
        ("logit_bias[1][1]", json!([[1, 5], ["a", null]])),
        ("logit_bias", json!(every_token_forbidden())),
        ("ignore_eos", json!(1)),
        ("repeat_last_n", json!(-2)),
        ("repeat_last_n", json!(65_537)),
        ("typical_p", json!(1.5)),
        ("top_n_sigma", json!(-2)),
        ("xtc_probability", json!(-0.1)),
        ("xtc_threshold", json!(1.1)),
        ("dynatemp_range", json!(3)),
        ("dynatemp_exponent", json!(-1)),
        ("tools", json!({"type": "function"})),
        ("tools", json!([vec![0; 40_000]])),
        ("tools[0]", json!([5])),
        ("tools[0].type", json!([{"type": "retrieval"}])),
        ("tools[0].function.name", json!([{"type": "function"}])),
        (
            "tools[1].function.parameters",
            json!([{"type": "function", "function": {"name": "f"}},
            {"type": "function", "function": {"name": "g", "parameters": []}}]),
        ),
        ("tool_choice", json!("required")),
        ("tool_choice", json!("sometimes")),
        ("tool_choice", json!(5)),
        (
            "tool_choice",
            json!({"type": "function", "function": {"name": "f"}}),
        ),
        ("parallel_tool_calls", json!("no")),
        ("reasoning_effort", json!("a lot")),
        ("reasoning_format", json!("deepseek-legacy")),
        ("chat_template_kwargs", json!([1])),
        ("chat_template_kwargs", json!("x")),
        (
            "chat_template_kwargs",
            json!({"a": vec![json!({}); 40_000]}),
        ),
        ("chat_template_kwargs.messages", json!({"messages": []})),
        ("add_generation_prompt", json!(1)),
        ("functions", json!([{}])),
        ("response_format", json!({"type": "json_object"})),
        ("grammar", json!("root ::= x")),
        ("json_schema", json!({"type": "object"})),
        ("chat_template", json!("{{ 1 }}")),
        ("messages", json!([])),
        ("messages", json!("hello")),
        (
            "messages",
            json!(vec![json!({"role": "user", "content": ""}); 20_001]),
        ),
        ("messages[0].role", json!([{"content": "x"}])),
        (
            "messages[0].role",
            json!([{"role": "wizard", "content": "x"}]),
        ),
        (
            "messages[1].role",
            json!([{"role": "user", "content": "x"}, {"role": 5, "content": "x"}]),
        ),
        ("messages[0].content", json!([{"role": "user"}])),
        (
            "messages[0].content",
            json!([{"role": "user", "content": null}]),
        ),
        (
            "messages[0].content",
            json!([{"role": "user", "content": 5}]),
        ),
        (
            "messages[0].content[1].type",
            json!([{"role": "user", "content":
            [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]),
        ),
        (
            "messages[0].tool_calls",
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]),
        ),
        (
            "messages[0].tool_calls",
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ",".repeat(40_000)}}]}]),
        ),
        (
            "messages[1]",
            json!([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]),
        ),
    ];
    for (path, value) in cases {
        let field = path.split(['[', '.']).next().unwrap();
        let reply = ask(server.address, &with(chat("say:hi"), json!({field: value}))).await;
        let error = error(path, &reply, 400);
        assert_eq!(error["type"], "invalid_request_error", "{path}");
        let message = error["message"].as_str().unwrap();
        let named = path == "messages[0].role" || message.contains(&format!("`{path}"));
        assert!(named && message.contains(field), "{path} in: {message}");
    }
    still_answers(&server).await;
}

#[tokio::test]
async fn messages_that_the_template_refuses_are_the_requests_fault() {
    let server = server::start(USUAL).await;
    let messages = json!([{"role": "tool", "content": "42", "tool_call_id": "1"}]);
    let reply = ask(server.address, &json!({"messages": messages})).await;
    assert!(
        error("tool", &reply, 400)["message"]
            .as_str()
            .unwrap()
            .contains("no tools here")
    );
    let function = json!({"name": "f", "arguments": "not JSON"});
    let messages = json!([{"role": "assistant", "tool_calls": [{"function": function}]}]);
    error(
        "arguments",
        &ask(server.address, &json!({"messages": messages})).await,
        400,
    );
    let long = ask(
        server.address,
        &with(chat("say:x"), json!({"stop": "x".repeat(5000)})),
    )
    .await;
    error("long stop string", &long, 400);
    still_answers(&server).await;
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let server = server::start(USUAL).await;
    let valid = chat("say:hi").to_string();
    let field = |field: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"x"}}],{field}}}"#).into_bytes()
    };
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("truncated", valid.as_bytes()[..valid.len() / 2].to_vec()),
        ("trailing garbage", [valid.as_bytes(), b" x"].concat()),
        (
            "two documents",
            [valid.as_bytes(), valid.as_bytes()].concat(),
        ),
        (
            "not UTF-8",
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}".to_vec(),
        ),
        ("unpaired surrogate", field(r#""model":"\ud800""#)),
        ("duplicate key", field(r#""stream":false,"stream":true"#)),
        ("number too large", field(r#""temperature":1e400"#)),
        (
            "huge integer",
            field(r#""max_tokens":99999999999999999999999999"#),
        ),
        ("NaN", field(r#""temperature":NaN"#)),
        ("depth 10 000", nested(10_000).into_bytes()),
        (
            "depth 10 000 in a known field",
            field(&format!(r#""tools":{}"#, nested(10_000))),
        ),
        ("a list", b"[null,[]]".to_vec()),
        ("a string", b"\"hello\"".to_vec()),
        ("no messages", b"{}".to_vec()),
        ("NUL bytes", vec![0; 1000]),
        (
            "a long wrong value",
            format!(r#"{{"messages":"{}"}}"#, "a".repeat(100_000)).into_bytes(),
        ),
    ];
    for (what, body) in cases {
        let reply = send(server.address, &post(&body)).await;
        assert_eq!(
            error(what, &reply, 400)["type"],
            "invalid_request_error",
            "{what}"
        );
    }
    let odd_but_valid = [
        ("negative zero", field(r#""temperature":-0"#)),
        (
            "depth 10 000 in a field that is skipped",
            field(&format!(r#""x":{}"#, nested(10_000))),
        ),
    ];
    for (what, body) in odd_but_valid {
        assert_eq!(
            send(server.address, &post(&body)).await.status,
            200,
            "{what}"
        );
    }
    still_answers(&server).await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let server = server::start(USUAL).await;
    let limit = potluck_coordinator::http::MAX_BODY_BYTES;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let announced = format!("{head}Content-Length: {}\r\n\r\n", limit + 1);
    error(
        "announced",
        &send(server.address, announced.as_bytes()).await,
        413,
    );
    let absurd = format!("{head}Content-Length: 9000000000000000000\r\n\r\n");
    error(
        "absurd",
        &send(server.address, absurd.as_bytes()).await,
        413,
    );
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}",
        limit + 1,
        " ".repeat(limit + 1)
    );
    error(
        "chunked",
        &send(server.address, chunked.as_bytes()).await,
        413,
    );
    let zipped = format!("{head}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc");
    error(
        "compressed",
        &send(server.address, zipped.as_bytes()).await,
        415,
    );
    let mut filled = chat("say:hi").to_string();
    filled.push_str(&" ".repeat(limit - filled.len()));
    assert_eq!(
        send(server.address, &post(filled.as_bytes())).await.status,
        200,
        "just within the limit"
    );
    still_answers(&server).await;
}

#[tokio::test]
async fn a_long_text_is_counted_not_choked_on() {
    let server = server::start(USUAL).await;
    for text in [
        "a".repeat(1 << 20),
        " ".repeat(1 << 20),
        "\n".repeat(1 << 20),
        "👩‍👩‍👧".repeat(60_000),
    ] {
        let reply = ask(server.address, &chat(&text)).await;
        let error = error("1 MiB", &reply, 400);
        assert_eq!(error["type"], "exceed_context_size_error");
        assert!(error["n_prompt_tokens"].as_u64().unwrap() > 1 << 19);
    }
    still_answers(&server).await;
}

#[tokio::test]
async fn unknown_models_are_404_by_name() {
    let server = server::start(USUAL).await;
    for name in [
        "gpt-4",
        "../../x",
        "/etc/passwd",
        "",
        "echo/tiny ",
        "\u{202e}",
    ] {
        let reply = ask(
            server.address,
            &with(chat("say:hi"), json!({"model": name})),
        )
        .await;
        let error = error(name, &reply, 404);
        assert_eq!(error["type"], "model_not_found");
        assert!(error["message"].as_str().unwrap().contains("echo/tiny"));
    }
    for path in [
        "/v1/models/gpt-4",
        "/v1/models/../../x",
        "/v1/models/..%2F..%2Fx",
        "/v1/models/%00",
    ] {
        assert_eq!(
            error(path, &get(server.address, path).await, 404)["type"],
            "model_not_found"
        );
    }
    error(
        "not UTF-8",
        &get(server.address, "/v1/models/%ff").await,
        400,
    );
}

#[tokio::test]
async fn unknown_routes_and_methods_have_the_shape_of_errors() {
    let server = server::start(USUAL).await;
    for path in [
        "/",
        "/v1",
        "/v1/chat/completions/x",
        "/v2/models",
        "/%ff",
        "/v1/models/",
    ] {
        error(path, &get(server.address, path).await, 404);
    }
    error(
        "GET",
        &get(server.address, "/v1/chat/completions").await,
        405,
    );
    for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
        let request =
            format!("{method} /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        error(method, &send(server.address, request.as_bytes()).await, 405);
    }
    // What is not HTTP gets a bare refusal, or none; nothing more is owed to it.
    for bytes in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes.as_bytes())
            .await
            .unwrap();
    }
    let headers = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    assert_eq!(send(server.address, headers.as_bytes()).await.status, 431);
    still_answers(&server).await;
}
