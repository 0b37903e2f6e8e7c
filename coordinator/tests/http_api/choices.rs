//! Several answers to one request.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{Reply, ask, chat, open, post, with};
use crate::server::{self, ENDLESS, Setup, USUAL};

fn texts(reply: &Value) -> Vec<String> {
    let choices = reply["choices"].as_array().unwrap();
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    choices.iter().map(text).collect()
}

/// What the chunks of each choice add up to.
fn streamed(reply: &Reply, n: usize) -> Vec<String> {
    let mut texts = vec![String::new(); n];
    for chunk in reply.chunks() {
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        }
    }
    texts
}

#[tokio::test]
async fn every_choice_has_its_own_seed_and_the_first_is_that_of_a_single_answer() {
    let server = server::start(USUAL).await;
    let body = |n: u32| with(chat("seed"), json!({"seed": 77, "n": n}));
    let reply = ask(server.address, &body(3)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = reply.json();
    let texts_of_3 = texts(&reply);
    assert_eq!(texts_of_3[0], "77");
    assert_eq!(texts(&ask(server.address, &body(1)).await.json()), ["77"]);
    assert_eq!(texts_of_3.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(
        texts(&ask(server.address, &body(3)).await.json()),
        texts_of_3
    );
    let choices = reply["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["finish_reason"], "stop");
    }
    // The prompt is counted once, the answers all.
    let one = ask(server.address, &body(1)).await.json();
    let n_answers: usize = texts_of_3.iter().map(String::len).sum();
    let usage = &reply["usage"];
    assert_eq!(usage["prompt_tokens"], one["usage"]["prompt_tokens"]);
    assert_eq!(usage["completion_tokens"], n_answers);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], prompt + n_answers as u64);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn streamed_choices_interleave_and_each_has_its_end() {
    let server = server::start(USUAL).await;
    let body = with(chat("seed"), json!({"seed": 77, "n": 3}));
    let whole = texts(&ask(server.address, &body).await.json());
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = ask(server.address, &with(body, options)).await;
    assert_eq!(streamed(&reply, 3), whole);
    let chunks = reply.chunks();
    let with_one = |what: &dyn Fn(&Value) -> bool| {
        let indices = chunks.iter().filter(|chunk| what(&chunk["choices"][0]));
        let mut indices: Vec<_> = indices
            .map(|chunk| chunk["choices"][0]["index"].clone())
            .collect();
        indices.sort_by_key(Value::as_u64);
        indices
    };
    let opened = with_one(&|choice| choice["delta"]["role"] == "assistant");
    assert_eq!(opened, [0, 1, 2]);
    let ended = with_one(&|choice| choice["finish_reason"] == "stop");
    assert_eq!(ended, [0, 1, 2]);
    let usage = &chunks.last().unwrap()["usage"];
    let n_answers: usize = whole.iter().map(String::len).sum();
    assert_eq!(usage["completion_tokens"], n_answers);
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(reply.events().iter().filter(|e| *e == "[DONE]").count(), 1);
}

#[tokio::test]
async fn choices_that_do_not_fit_at_once_wait_for_each_other() {
    let setup = Setup {
        max_sequences: 1,
        ..USUAL
    };
    let server = server::start(setup).await;
    let body = with(chat("forever"), json!({"n": 16, "max_tokens": 3}));
    let reply = ask(server.address, &body).await.json();
    assert_eq!(texts(&reply), vec!["xxx"; 16]);
    assert_eq!(reply["usage"]["completion_tokens"], 48);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_request_whose_choices_have_no_place_leaves_none_behind() {
    let setup = Setup {
        max_sequences: 1,
        permits: 0,
        ..USUAL
    };
    let server = server::start(setup).await;
    let body = with(chat("forever"), json!({"n": 16, "max_tokens": 3}));
    let address = server.address;
    let both = [body.clone(), body.clone()]
        .map(|body| tokio::spawn(async move { ask(address, &body).await }));
    // One has a place and 31 wait: there is room for one more.
    server::until(&server.engine, |status| status.waiting == 31).await;
    let refused = ask(address, &body).await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    server::until(&server.engine, |status| status.waiting == 31).await;
    server.ring.permits.add_permits(1 << 20);
    for answered in both {
        assert_eq!(answered.await.unwrap().status, 200);
    }
    server::until_idle(&server).await;
}

#[tokio::test]
async fn leaving_cancels_every_choice() {
    let server = server::start(ENDLESS).await;
    let endless = with(chat("forever"), json!({"n": 3, "stream": true}));
    let request = post(endless.to_string().as_bytes());
    let connection = open(
        server.address,
        &request,
        r#""index":2,"delta":{"content":"x""#,
    )
    .await;
    assert_eq!(server.engine.status().running, 3);
    drop(connection);
    server::until_idle(&server).await;
}

#[tokio::test]
async fn a_choice_that_fails_ends_the_whole_request() {
    let server = server::start(ENDLESS).await;
    let breaks = with(chat("break forever"), json!({"n": 2}));
    let reply = ask(server.address, &breaks).await;
    assert_eq!(reply.status, 500, "{}", reply.body);
    let streamed = ask(server.address, &with(breaks, json!({"stream": true}))).await;
    let last: Value = serde_json::from_str(streamed.events().last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], 500, "{last}");
    server::until_idle(&server).await;
}
