//! Options of sampling on their way to the ring: what a request says is what a run asks for.

use serde_json::json;

use crate::client::{ask, chat, with};
use crate::model;
use crate::server::{self, Setup, USUAL};

async fn options(asked: serde_json::Value) -> String {
    let server = server::start(USUAL).await;
    let reply = ask(server.address, &with(chat("options"), asked)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let text = reply.json()["choices"][0]["message"]["content"].clone();
    text.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn everything_is_off_unless_asked_for() {
    assert_eq!(
        options(json!({})).await,
        "window 64, typical 1, sigma 0, xtc 0 0.1, dynatemp 0 1, bias "
    );
    let off =
        json!({"top_n_sigma": -1, "logit_bias": null, "ignore_eos": false, "repeat_last_n": null});
    assert_eq!(options(off).await, options(json!({})).await);
}

#[tokio::test]
async fn every_option_arrives() {
    let all = json!({
        "repeat_last_n": -1, "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.25, "xtc_threshold": 0.2,
        "dynatemp_range": 0.75, "dynatemp_exponent": 2,
    });
    assert_eq!(
        options(all).await,
        "window 65536, typical 0.5, sigma 1.5, xtc 0.25 0.2, dynatemp 0.75 2, bias "
    );
    let biases = json!([[7, 1.5], ["hi", -2], [9, false]]);
    let (h, i) = (model::token_of(b'h'), model::token_of(b'i'));
    let biased = options(json!({"logit_bias": biases, "ignore_eos": true, "max_tokens": 90})).await;
    let want = format!("bias {}-inf 7+1.5 {h}-2 {i}-2 9-inf", model::END);
    assert!(biased.contains(&want), "{biased}");
}

#[tokio::test]
async fn what_is_forbidden_is_not_drawn() {
    let server = server::start(USUAL).await;
    let never = |letter: u8| json!({"logit_bias": {model::token_of(letter).to_string(): -100}});
    let reply = ask(server.address, &with(chat("say:banana"), never(b'n')))
        .await
        .json();
    assert_eq!(reply["choices"][0]["message"]["content"], "ba.a.a");
    let goes_on = json!({"ignore_eos": true, "max_tokens": 5});
    let reply = ask(server.address, &with(chat("say:hi"), goes_on))
        .await
        .json();
    assert_eq!(reply["choices"][0]["message"]["content"], "hi...");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    server::until_idle(&server).await;
}

#[tokio::test]
async fn an_older_worker_is_spared_what_it_does_not_know() {
    let server = server::start(Setup { up: false, ..USUAL }).await;
    let older = crate::ring::limits(USUAL.context_tokens, USUAL.max_sequences);
    let older = potluck_coordinator::engine::RingLimits {
        protocol: 2,
        ..older
    };
    let up = potluck_coordinator::engine::RingEvent::Up(older);
    server.ring.events.send(up).await.unwrap();
    server::until(&server.engine, |status| status.not_ready.is_none()).await;
    let refused = [
        json!({"logprobs": true}),
        json!({"logit_bias": {"5": 1}}),
        json!({"ignore_eos": true}),
        json!({"typical_p": 0.5}),
        json!({"top_n_sigma": 1}),
        json!({"xtc_probability": 0.5}),
        json!({"dynatemp_range": 0.5}),
        json!({"repeat_last_n": 5000}),
    ];
    for options in refused {
        let reply = ask(server.address, &with(chat("say:hi"), options.clone())).await;
        assert_eq!(reply.status, 400, "{options}");
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains("too old"), "{message}");
    }
    let plain = with(chat("say:hi"), json!({"top_k": 5, "repeat_last_n": 4096}));
    assert_eq!(ask(server.address, &plain).await.status, 200);
}
