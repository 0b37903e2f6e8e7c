//! Log-probabilities: an entry for every token, in order, whatever became of its text.

use serde_json::{Value, json};

use crate::client::{Reply, ask, chat, with};
use crate::model;
use crate::server::{self, USUAL};

/// The entries of a whole reply.
fn entries(reply: &Value) -> Vec<Value> {
    let entries = reply["choices"][0]["logprobs"]["content"].as_array();
    entries
        .unwrap_or_else(|| panic!("no entries: {reply}"))
        .clone()
}

/// The entries of all chunks, in order.
fn streamed(reply: &Reply) -> Vec<Value> {
    let of = |chunk: &Value| {
        chunk["choices"][0]["logprobs"]["content"]
            .as_array()
            .cloned()
    };
    reply.chunks().iter().filter_map(of).flatten().collect()
}

fn bytes(entries: &[Value]) -> Vec<u8> {
    let of = |entry: &Value| serde_json::from_value::<Vec<u8>>(entry["bytes"].clone()).unwrap();
    entries.iter().flat_map(of).collect()
}

#[tokio::test]
async fn an_entry_has_openais_shape() {
    let server = server::start(USUAL).await;
    let options = json!({"logprobs": true, "top_logprobs": 3});
    let reply = ask(server.address, &with(chat("say:hé"), options)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let entries = entries(&reply.json());
    let token = |id: u32, text: &str, bytes: Option<Vec<u8>>, logprob: f64| json!({"id": id, "token": text, "bytes": bytes, "logprob": logprob});
    let second = model::token_of(0xc3);
    let third = model::token_of(0xa9);
    // Half a character is no text, but has its bytes; the end token has a name only.
    let half = |id, byte, logprob| token(id, "\u{fffd}", Some(vec![byte]), logprob);
    let end = |logprob| token(model::END, "</s>", None, logprob);
    let zero = |logprob| token(model::FIRST_BYTE, "\u{0}", Some(vec![0]), logprob);
    let with_top = |mut entry: Value, top: Value| {
        entry["top_logprobs"] = top;
        entry
    };
    let h = |logprob| token(model::token_of(b'h'), "h", Some(vec![b'h']), logprob);
    assert_eq!(entries[0]["token"], h(0.0)["token"]);
    let of_second = json!([half(second, 0xc3, -0.25), end(-1.25), zero(-2.25)]);
    assert_eq!(entries[1], with_top(half(second, 0xc3, -0.25), of_second));
    let of_third = json!([half(third, 0xa9, -0.5), end(-1.5), zero(-2.5)]);
    assert_eq!(entries[2], with_top(half(third, 0xa9, -0.5), of_third));
    assert_eq!(
        entries.len(),
        3,
        "the end of the answer is none of its tokens"
    );
}

#[tokio::test]
async fn no_entry_is_lost_when_text_is_held_back() {
    let server = server::start(USUAL).await;
    let cases = [
        ("naïve 🦀!", json!({})),
        // The last letters may be the beginning of a stop string until the answer ends.
        ("xabc", json!({"stop": "abcd"})),
        // They are: the tokens of the stop string were drawn and are counted.
        ("one STOP two", json!({"stop": "STOP"})),
        ("STOP", json!({"stop": "STOP"})),
        // Half of a character at the end.
        ("a🦀", json!({"max_tokens": 3})),
        ("", json!({})),
    ];
    for (says, options) in cases {
        let base = with(chat(&format!("say:{says}")), json!({"logprobs": true}));
        let body = with(base, options);
        let whole = ask(server.address, &body).await.json();
        let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
        let streamed = streamed(&ask(server.address, &with(body, json!({"stream": true}))).await);
        assert_eq!(streamed.len(), tokens, "{says}");
        assert_eq!(bytes(&streamed), says.as_bytes()[..tokens], "{says}");
        assert_eq!(entries(&whole), streamed, "{says}");
        for (index, entry) in streamed.iter().enumerate() {
            assert_eq!(entry["logprob"], -0.25 * index as f64, "{says}");
            assert_eq!(entry["top_logprobs"], json!([]), "{says}");
        }
    }
}

#[tokio::test]
async fn nobody_gets_them_unasked() {
    let server = server::start(USUAL).await;
    for options in [json!({}), json!({"logprobs": false, "top_logprobs": 0})] {
        let reply = ask(server.address, &with(chat("say:hi"), options)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.json()["choices"][0].get("logprobs"), None);
    }
}

#[tokio::test]
async fn each_choice_has_its_own() {
    let server = server::start(USUAL).await;
    let body = with(chat("seed"), json!({"seed": 5, "n": 2, "logprobs": true}));
    let reply = ask(server.address, &body).await.json();
    for choice in reply["choices"].as_array().unwrap() {
        let entries = choice["logprobs"]["content"].as_array().unwrap();
        let text = choice["message"]["content"].as_str().unwrap();
        assert_eq!(bytes(entries), text.as_bytes());
    }
}
