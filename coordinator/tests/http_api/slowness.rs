//! Slow clients and slow prompts. The clock stands still but for the timers that fire, so nothing here takes its time.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::{chat, post, with};
use crate::server::{self, ENDLESS, Setup, USUAL};

/// Sends a beginning and waits for what the server makes of it.
async fn reply_to_beginning(beginning: &[u8]) -> (String, u64) {
    let server = server::start(USUAL).await;
    tokio::time::pause();
    let started = Instant::now();
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(beginning).await.unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();
    (reply, started.elapsed().as_secs())
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let request = post(chat("say:hi").to_string().as_bytes());
    let (reply, seconds) = reply_to_beginning(&request[..request.len() - 1]).await;
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert!(reply.contains("within 30 seconds"), "{reply}");
    assert_eq!(seconds, 30);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let (reply, seconds) = reply_to_beginning(b"GET /health HTTP/1.1\r\nHost: local").await;
    assert!(
        reply.is_empty() || reply.starts_with("HTTP/1.1 408 "),
        "{reply}"
    );
    assert_eq!(seconds, 30);
}

#[tokio::test]
async fn a_stream_shows_signs_of_life_during_a_long_prompt() {
    let server = server::start(Setup {
        permits: 0,
        ..ENDLESS
    })
    .await;
    tokio::time::pause();
    let started = Instant::now();
    let request = post(
        with(chat("forever"), json!({"stream": true}))
            .to_string()
            .as_bytes(),
    );
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(&request).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\r\n:\n\n") {
        assert_ne!(
            connection.read_buf(&mut seen).await.unwrap(),
            0,
            "closed too early"
        );
    }
    // Headers and the opening after 10 seconds, the first comment 15 seconds later.
    assert_eq!(started.elapsed().as_secs(), 25);
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        seen.starts_with("HTTP/1.1 200 ") && seen.contains(r#""role":"assistant""#),
        "{seen}"
    );
}
