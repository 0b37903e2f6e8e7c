//! What is wrong with a request for a message, or goes wrong behind it, in Anthropic's shape whoever refuses it.

use potluck_coordinator::engine::RingEvent;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::{Reply, ask, ask_at, chat, get, open, post_to, send, with};
use crate::keys::Keys;
use crate::messages::{HERMES, events, post, question};
use crate::server::{self, ENDLESS, Setup, USUAL};

/// The message of an error, after checking its shape.
fn error(what: &str, reply: &Reply, status: u16, kind: &str) -> String {
    assert_eq!(reply.status, status, "{what}: {}", reply.body);
    let body = reply.json();
    let message = body["error"]["message"].as_str().unwrap();
    let expected = json!({"type": "error", "error": {"type": kind, "message": message}});
    assert_eq!(body, expected, "{what}");
    message.to_owned()
}

#[tokio::test]
async fn values_out_of_range_are_refused_by_name() {
    let server = server::start(HERMES).await;
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let assistant = |content: Value| json!([{"role": "assistant", "content": content}]);
    let image = json!({"type": "image", "source": {"type": "base64", "data": "x"}});
    let call = |input: Value| json!([{"type": "tool_use", "id": "1", "name": "f", "input": input}]);
    let cases = [
        ("max_tokens", json!(null)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!("7")),
        ("max_tokens", json!(1u64 << 31)),
        ("temperature", json!(2.5)),
        ("temperature", json!("hot")),
        ("top_p", json!(-0.1)),
        ("top_k", json!(-1)),
        ("stop_sequences", json!("END")),
        ("stop_sequences", json!(["a", ""])),
        ("stop_sequences", json!(vec!["a"; 17])),
        ("stop_sequences[1]", json!(["a", 5])),
        ("stream", json!("yes")),
        ("model", json!(5)),
        ("system", json!(5)),
        (
            "system[1].type",
            json!([{"type": "text", "text": "a"}, image]),
        ),
        ("thinking.type", json!({"type": "hard"})),
        ("thinking", json!(true)),
        ("tools", json!({"name": "f"})),
        ("tools", json!([vec![0; 40_000]])),
        ("tools[0]", json!([5])),
        ("tools[0].name", json!([{"input_schema": {}}])),
        (
            "tools[0].type",
            json!([{"type": "web_search_20250305", "name": "web_search"}]),
        ),
        (
            "tools[0].description",
            json!([{"name": "f", "description": {}}]),
        ),
        (
            "tools[1].input_schema",
            json!([{"name": "f"}, {"name": "g", "input_schema": []}]),
        ),
        ("tool_choice.type", json!({"type": "any"})),
        ("tool_choice.type", json!({"type": "tool", "name": "f"})),
        ("tool_choice.type", json!({"type": "sometimes"})),
        ("tool_choice", json!("auto")),
        (
            "output_config.format",
            json!({"format": {"type": "json_schema", "schema": {}}}),
        ),
        ("mcp_servers", json!([{"type": "url"}])),
        ("messages", json!([])),
        ("messages", json!("hello")),
        (
            "messages",
            json!(vec![json!({"role": "user", "content": ""}); 20_001]),
        ),
        ("messages[0]", json!([{"role": "user"}])),
        (
            "messages[0].role",
            json!([{"role": "system", "content": "x"}]),
        ),
        ("messages[0].content", user(json!(5))),
        (
            "messages[0].content",
            user(json!(vec![json!({"type": "text", "text": ""}); 1025])),
        ),
        (
            "messages[0].content[1].type",
            user(json!([{"type": "text", "text": "a"}, image])),
        ),
        ("messages[0].content[0].type", user(call(json!({})))),
        (
            "messages[0].content[0].type",
            assistant(json!([{"type": "tool_result", "tool_use_id": "1"}])),
        ),
        ("messages[0].content[0]", user(json!([{"type": "text"}]))),
        (
            "messages[0].content[0]",
            user(json!([{"type": "tool_result", "content": "x"}])),
        ),
        ("messages[0].content[0]", assistant(call(json!([1])))),
        (
            "messages[0].content[0]",
            assistant(json!([{"type": "tool_use", "id": "1", "input": {}}])),
        ),
        (
            "messages[0].content",
            assistant(call(json!({"a": vec![0; 40_000]}))),
        ),
        (
            "messages[0].content[0].content[1].type",
            user(
                json!([{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a"}, image]}]),
            ),
        ),
        (
            "messages[2]",
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]),
        ),
    ];
    for (path, value) in cases {
        let field = path.split(['[', '.']).next().unwrap();
        let reply = post(&server, &with(question("say:hi"), json!({field: value}))).await;
        let message = error(path, &reply, 400, "invalid_request_error");
        assert!(
            message.contains(&format!("`{path}")),
            "{path} in: {message}"
        );
    }
    let reply = post(&server, &question("say:yes")).await;
    assert_eq!(reply.json()["content"][0]["text"], "yes");
    server::until_idle(&server).await;
}

#[tokio::test]
async fn every_refusal_has_anthropics_shape() {
    let server = server::start(Setup {
        context_tokens: 64,
        ..USUAL
    })
    .await;
    let asked = |extra: Value| with(question("say:hi"), extra);
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let reply = ask_at(server.address, path, &asked(json!({"model": "gpt-17"}))).await;
        let message = error(path, &reply, 404, "not_found_error");
        assert!(message.contains("gpt-17"), "{message}");
        error(
            path,
            &get(server.address, path).await,
            405,
            "invalid_request_error",
        );
        let reply = send(server.address, &post_to(path, b"{")).await;
        error(path, &reply, 400, "invalid_request_error");
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let large = format!("{head}Content-Length: 9000000\r\n\r\n");
        error(
            path,
            &send(server.address, large.as_bytes()).await,
            413,
            "request_too_large",
        );
        let foreign = format!("{head}Origin: https://evil.com\r\nContent-Length: 0\r\n\r\n");
        error(
            path,
            &send(server.address, foreign.as_bytes()).await,
            403,
            "permission_error",
        );
    }
    let reply = get(server.address, "/v1/messages/batches").await;
    error("batches", &reply, 404, "not_found_error");
    let long = post(&server, &question(&"a".repeat(100))).await;
    let message = error("long", &long, 400, "invalid_request_error");
    assert!(message.contains("64 tokens"), "{message}");
    // Others keep theirs.
    for path in ["/v1/messagesx", "/v1/chat"] {
        let error = get(server.address, path).await.json()["error"].take();
        assert_eq!(error["code"], 404, "{path}");
    }
    let reply = ask(
        server.address,
        &with(chat("say:hi"), json!({"model": "gpt-17"})),
    )
    .await;
    assert_eq!(reply.json()["error"]["type"], "model_not_found");
}

#[tokio::test]
async fn keys_come_in_anthropics_header() {
    let (keys, key) = Keys::one();
    let server = keys.serve().await;
    let body = question("say:hi").to_string();
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let ask = async |headers: &str| {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            send(server.address, request.as_bytes()).await
        };
        error(path, &ask("").await, 401, "authentication_error");
        error(
            path,
            &ask("X-Api-Key: none\r\n").await,
            401,
            "authentication_error",
        );
        for headers in [
            format!("X-Api-Key: {key}\r\n"),
            format!("Authorization: Bearer {key}\r\n"),
        ] {
            assert_eq!(ask(&headers).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn what_fails_before_the_first_byte_is_a_status() {
    let server = server::start(Setup { up: false, ..USUAL }).await;
    for stream in [false, true] {
        let reply = post(
            &server,
            &with(question("say:hi"), json!({"stream": stream})),
        )
        .await;
        error("down", &reply, 503, "overloaded_error");
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    let server = server::start(USUAL).await;
    let reply = post(&server, &question("break say:hello")).await;
    error("fault", &reply, 500, "api_error");
}

#[tokio::test]
async fn what_fails_in_the_middle_is_an_event() {
    let server = server::start(ENDLESS).await;
    let body = with(
        question("forever"),
        json!({"stream": true, "max_tokens": 1_000_000}),
    );
    let request = post_to("/v1/messages", body.to_string().as_bytes());
    let mut connection = open(server.address, &request, r#""text":"x""#).await;
    let why = "worker 'attic' does not answer".to_owned();
    server
        .ring
        .events
        .send(RingEvent::Down { why })
        .await
        .unwrap();
    let mut rest = String::new();
    let reading = connection.read_to_string(&mut rest);
    tokio::time::timeout(server::PATIENCE, reading)
        .await
        .expect("in time")
        .unwrap();
    let (_, last) = rest.rsplit_once("event: error\ndata: ").expect("an error");
    let last: Value = serde_json::from_str(last.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("overloaded_error"))
    );
    let streamed = post(
        &server,
        &with(question("break say:hello"), json!({"stream": true})),
    )
    .await;
    assert_eq!(streamed.status, 503, "the ring is gone");
    let server = server::start(USUAL).await;
    let streamed = post(
        &server,
        &with(question("break say:hello"), json!({"stream": true})),
    )
    .await;
    let (name, data) = events(&streamed).pop().unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["type"]),
        ("error", &json!("api_error"))
    );
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_silent_stream_pings() {
    let server = server::start(Setup {
        permits: 0,
        ..ENDLESS
    })
    .await;
    tokio::time::pause();
    let started = Instant::now();
    let body = with(question("forever"), json!({"stream": true}));
    let request = post_to("/v1/messages", body.to_string().as_bytes());
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(&request).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("event: ping\ndata: {\"type\":\"ping\"}\n\n") {
        assert_ne!(
            connection.read_buf(&mut seen).await.unwrap(),
            0,
            "closed too early"
        );
    }
    // Headers and the opening after 10 seconds, the first ping 15 seconds later.
    assert_eq!(started.elapsed().as_secs(), 25);
    assert!(String::from_utf8_lossy(&seen).contains("event: message_start\n"));
}
