//! Text to token ids and back.

use serde_json::{Value, json};

use crate::client::{Reply, ask_at};
use crate::model::{END, N_VOCAB, SPACE, token_of};
use crate::server::{self, Server, USUAL};

async fn tokenize(server: &Server, body: Value) -> Reply {
    ask_at(server.address, "/tokenize", &body).await
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(token_of).collect()
}

#[tokio::test]
async fn text_becomes_ids_and_ids_become_text() {
    let server = server::start(USUAL).await;
    let reply = tokenize(&server, json!({"content": "a\u{20ac}b"})).await;
    assert_eq!(reply.json(), json!({"tokens": ids("a\u{20ac}b")}));
    let back = ask_at(server.address, "/detokenize", &reply.json()).await;
    assert_eq!(back.json(), json!({"content": "a\u{20ac}b"}));
}

#[tokio::test]
async fn special_tokens_are_added_and_parsed_as_asked() {
    let server = server::start(USUAL).await;
    let text = json!("x</s>");
    let parsed = tokenize(&server, json!({"content": text})).await;
    assert_eq!(parsed.json()["tokens"], json!([token_of(b'x'), END]));
    let kept = tokenize(&server, json!({"content": text, "parse_special": false})).await;
    assert_eq!(kept.json()["tokens"], json!(ids("x</s>")));
    let with_bos = tokenize(&server, json!({"content": "x", "add_special": true})).await;
    assert_eq!(with_bos.json()["tokens"], json!([1, token_of(b'x')]));
}

#[tokio::test]
async fn pieces_are_text_or_bytes() {
    let server = server::start(USUAL).await;
    let body = json!({"content": "a \u{e9}</s>", "with_pieces": true});
    let reply = tokenize(&server, body).await;
    assert_eq!(
        reply.json()["tokens"],
        json!([
            {"id": token_of(b'a'), "piece": "a"},
            {"id": SPACE, "piece": " "},
            {"id": token_of(0xc3), "piece": [0xc3]},
            {"id": token_of(0xa9), "piece": [0xa9]},
            {"id": END, "piece": "</s>"},
        ])
    );
}

#[tokio::test]
async fn bad_bodies_are_refused_by_name() {
    let server = server::start(USUAL).await;
    for (path, body, named) in [
        ("/tokenize", json!({}), "content"),
        ("/tokenize", json!({"content": 5}), "`content`"),
        (
            "/tokenize",
            json!({"content": "a", "add_special": "yes"}),
            "`add_special`",
        ),
        ("/tokenize", json!(["a"]), "object"),
        ("/detokenize", json!({"tokens": "a"}), "`tokens`"),
        ("/detokenize", json!({"tokens": [3, -1]}), "`tokens[1]`"),
        (
            "/detokenize",
            json!({"tokens": [3, N_VOCAB]}),
            "`tokens[1]`",
        ),
    ] {
        let reply = ask_at(server.address, path, &body).await;
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.body);
        let message = reply.json()["error"]["message"].clone();
        let message = message.as_str().unwrap_or_default();
        assert!(message.contains(named), "{path} {body}: {message}");
    }
}
