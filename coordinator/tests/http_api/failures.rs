//! What goes wrong behind the API: before the first byte it is a status, in the middle of a stream it is its last event.

use potluck_coordinator::engine::RingEvent;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{ask, chat, open, post, send, with};
use crate::server::{self, ENDLESS, Setup, USUAL};

async fn lose_the_ring(server: &server::Server) {
    let why = "worker 'attic' does not answer".to_owned();
    server
        .ring
        .events
        .send(RingEvent::Down { why })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_model_that_is_not_ready_is_503() {
    let server = server::start(Setup { up: false, ..USUAL }).await;
    for stream in [false, true] {
        let reply = ask(
            server.address,
            &with(chat("say:hi"), json!({"stream": stream})),
        )
        .await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert_eq!(reply.json()["error"]["type"], "unavailable_error");
        assert_eq!(reply.json()["error"]["code"], 503);
    }
}

#[tokio::test]
async fn a_worker_lost_before_the_first_byte_is_503() {
    for stream in [false, true] {
        let server = server::start(Setup {
            permits: 0,
            ..USUAL
        })
        .await;
        let address = server.address;
        let body = with(chat("say:hi"), json!({"stream": stream}));
        let asking = tokio::spawn(async move { ask(address, &body).await });
        server::until(&server.engine, |status| status.running == 1).await;
        lose_the_ring(&server).await;
        let reply = asking.await.unwrap();
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert!(
            reply.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("attic")
        );
    }
}

#[tokio::test]
async fn a_worker_lost_in_the_middle_is_the_last_event() {
    let server = server::start(ENDLESS).await;
    let request = post(
        with(chat("forever"), json!({"stream": true}))
            .to_string()
            .as_bytes(),
    );
    let mut connection = open(server.address, &request, r#""content":"x""#).await;
    lose_the_ring(&server).await;
    let mut rest = String::new();
    let reading = connection.read_to_string(&mut rest);
    tokio::time::timeout(server::PATIENCE, reading)
        .await
        .expect("in time")
        .unwrap();
    let last = rest
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .next_back()
        .unwrap();
    let error: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], 503);
    assert_eq!(error["error"]["type"], "unavailable_error");
}

#[tokio::test]
async fn a_fault_in_the_middle_ends_the_stream_and_fails_a_whole_answer() {
    let server = server::start(USUAL).await;
    let whole = ask(server.address, &chat("break say:hello")).await;
    assert_eq!(whole.status, 500);
    assert_eq!(whole.json()["error"]["type"], "server_error");
    let streamed = ask(
        server.address,
        &with(chat("break say:hello"), json!({"stream": true})),
    )
    .await;
    assert_eq!(streamed.status, 200);
    let last: serde_json::Value = serde_json::from_str(streamed.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], 500);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_full_queue_is_429_and_says_when_to_come_back() {
    let server = server::start(Setup {
        max_sequences: 1,
        permits: 0,
        ..USUAL
    })
    .await;
    let request = post(chat("say:hi").to_string().as_bytes());
    let mut connections = Vec::new();
    let limit = potluck_coordinator::engine::MAX_WAITING;
    for _ in 0..=limit {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(&request).await.unwrap();
        connections.push(connection);
    }
    server::until(&server.engine, |status| status.waiting == limit).await;
    let reply = send(server.address, &request).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    drop(connections);
    server.ring.permits.add_permits(1 << 20);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_prompt_is_refused_with_both_numbers_when_it_does_not_fit() {
    // BOS, "user:", </s>, "assistant:" are 17 tokens.
    let server = server::start(Setup {
        context_tokens: 40,
        ..USUAL
    })
    .await;
    let reply = ask(server.address, &chat(&"a".repeat(100))).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "exceed_context_size_error");
    assert_eq!(
        (&error["n_prompt_tokens"], &error["n_ctx"]),
        (&json!(117), &json!(40))
    );
    let fits = ask(server.address, &chat(&format!("say:{}", "b".repeat(18)))).await;
    assert_eq!(
        fits.status, 200,
        "39 tokens leave room for one: {}",
        fits.body
    );
}

#[tokio::test]
async fn a_model_without_a_template_does_not_chat() {
    let server = server::start(Setup {
        template: None,
        ..USUAL
    })
    .await;
    let reply = ask(server.address, &chat("say:hi")).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("has no chat template")
    );
}
