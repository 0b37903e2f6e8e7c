//! A client that goes away takes its sequence along, whatever stage its request is at, and nobody else's.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{ask, chat, open, post, send, with};
use crate::server::{self, ENDLESS, Server, Setup, USUAL};

fn endless(extra: serde_json::Value) -> Vec<u8> {
    post(with(chat("forever"), extra).to_string().as_bytes())
}

async fn still_answers(server: &Server) {
    let reply = ask(server.address, &chat("say:yes")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "yes");
    server::until_idle(server).await;
}

#[tokio::test]
async fn leaving_between_tokens_cancels() {
    let server = server::start(ENDLESS).await;
    let connection = open(
        server.address,
        &endless(json!({"stream": true})),
        r#""content":"x""#,
    )
    .await;
    drop(connection);
    server::until_idle(&server).await;
    still_answers(&server).await;
}

#[tokio::test]
async fn closing_only_the_sending_side_cancels_too() {
    let server = server::start(ENDLESS).await;
    let request = endless(json!({"stream": true}));
    let mut connection = open(server.address, &request, r#""content":"x""#).await;
    connection.shutdown().await.unwrap();
    server::until_idle(&server).await;
}

#[tokio::test]
async fn leaving_while_a_whole_answer_grows_cancels() {
    let server = server::start(ENDLESS).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(&endless(json!({}))).await.unwrap();
    server::until(&server.engine, |status| status.n_generated_tokens > 3).await;
    drop(connection);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn leaving_during_the_prompt_cancels() {
    let server = server::start(Setup {
        permits: 0,
        ..ENDLESS
    })
    .await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection
        .write_all(&endless(json!({"stream": true})))
        .await
        .unwrap();
    server::until(&server.engine, |status| status.running == 1).await;
    drop(connection);
    server.ring.permits.add_permits(1 << 20);
    server::until_idle(&server).await;
    still_answers(&server).await;
}

#[tokio::test]
async fn leaving_the_queue_does_not_cancel_who_is_being_served() {
    let server = server::start(Setup {
        max_sequences: 1,
        ..ENDLESS
    })
    .await;
    let serving = open(
        server.address,
        &endless(json!({"stream": true})),
        r#""content":"x""#,
    )
    .await;
    let mut queued = TcpStream::connect(server.address).await.unwrap();
    queued
        .write_all(&post(chat("say:me too").to_string().as_bytes()))
        .await
        .unwrap();
    server::until(&server.engine, |status| status.waiting == 1).await;
    drop(queued);
    server::until(&server.engine, |status| {
        status.waiting == 0 && status.running == 1
    })
    .await;
    let generated = server.engine.status().n_generated_tokens;
    server::until(&server.engine, |status| {
        status.n_generated_tokens > generated + 10
    })
    .await;
    drop(serving);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn leaving_before_a_request_is_complete_leaves_nothing() {
    let server = server::start(USUAL).await;
    let request = post(chat("say:hello").to_string().as_bytes());
    for sent in [0, 1, 20, request.len() - 1] {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(&request[..sent]).await.unwrap();
        drop(connection);
    }
    // Leaving at once after the last byte may come before or after the answer.
    for _ in 0..20 {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(&request).await.unwrap();
        drop(connection);
    }
    still_answers(&server).await;
}

#[tokio::test]
async fn a_stopped_server_lets_answers_end_and_accepts_no_more() {
    let server = server::start(Setup {
        permits: 1,
        ..USUAL
    })
    .await;
    let request = post(chat("say:goodbye").to_string().as_bytes());
    let address = server.address;
    let answer = tokio::spawn(async move { send(address, &request).await });
    server::until(&server.engine, |status| status.running == 1).await;
    server.stop.send(()).unwrap();
    server.ring.permits.add_permits(1 << 20);
    assert_eq!(
        answer.await.unwrap().json()["choices"][0]["message"]["content"],
        "goodbye"
    );
    tokio::time::timeout(server::PATIENCE, server.task)
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
