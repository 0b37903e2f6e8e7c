//! Text completions.

use serde_json::{Value, json};

use crate::client::{Reply, ask_at, with};
use crate::model;
use crate::server::{self, Server, USUAL};

async fn complete(server: &Server, prompt: Value, more: Value) -> Reply {
    let body = with(json!({"prompt": prompt}), more);
    ask_at(server.address, "/v1/completions", &body).await
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(model::token_of).collect()
}

#[tokio::test]
async fn a_prompt_is_gone_on_with() {
    let server = server::start(USUAL).await;
    let reply = complete(&server, json!("say:hello"), json!({}))
        .await
        .json();
    assert_eq!(reply["object"], "text_completion");
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        reply["choices"],
        json!([{"index": 0, "text": "hello", "logprobs": null, "finish_reason": "stop"}])
    );
    assert_eq!(reply["usage"]["completion_tokens"], 5);
    let forever = complete(&server, json!("forever"), json!({})).await.json();
    assert_eq!(
        forever["choices"][0]["text"],
        "x".repeat(16),
        "OpenAI's default"
    );
    assert_eq!(forever["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn control_tokens_may_be_spelled_and_ids_given() {
    let server = server::start(USUAL).await;
    let n_prompt = async |prompt: Value| {
        let reply = complete(&server, prompt, json!({"max_tokens": 1})).await;
        reply.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let text = n_prompt(json!("say:a")).await;
    assert_eq!(n_prompt(json!("say:a</s>")).await, text + 1);
    assert_eq!(
        n_prompt(json!(ids("say:a"))).await,
        5,
        "ids come as they are"
    );
    let answer = complete(&server, json!(ids("say:ids")), json!({})).await;
    assert_eq!(answer.json()["choices"][0]["text"], "ids");
}

#[tokio::test]
async fn several_prompts_have_choices_one_after_the_other() {
    let server = server::start(USUAL).await;
    let prompts = json!(["say:one", ids("say:two")]);
    let reply = complete(&server, prompts, json!({"n": 2})).await.json();
    let texts: Vec<_> = reply["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| {
            (
                choice["index"].as_u64().unwrap(),
                choice["text"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(texts, [(0, "one"), (1, "one"), (2, "two"), (3, "two")]);
    assert_eq!(reply["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn a_stream_has_the_same_text_and_says_why_it_ends() {
    let server = server::start(USUAL).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}, "logprobs": 1});
    let reply = complete(&server, json!("say:hello"), options).await;
    let chunks = reply.chunks();
    let (pieces, [closing, accounts]) = chunks.split_last_chunk::<2>().unwrap();
    let text: String = pieces
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "hello");
    let offsets: Vec<_> = pieces
        .iter()
        .flat_map(|chunk| {
            chunk["choices"][0]["logprobs"]["text_offset"]
                .as_array()
                .unwrap()
        })
        .map(|offset| offset.as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
    assert_eq!(closing["choices"][0]["finish_reason"], "stop");
    assert_eq!(accounts["choices"], json!([]));
    assert_eq!(accounts["usage"]["completion_tokens"], 5);
    assert_eq!(reply.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn log_probabilities_are_lists_side_by_side() {
    let server = server::start(USUAL).await;
    let reply = complete(&server, json!("say:hi"), json!({"logprobs": 2}))
        .await
        .json();
    let logprobs = &reply["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["h", "i"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1]));
    assert_eq!(logprobs["token_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(logprobs["top_logprobs"][1].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = server::start(USUAL).await;
    let cases = [
        ("prompt", json!([model::N_VOCAB]), json!({})),
        ("prompt", json!([]), json!({})),
        ("prompt", json!({"a": 1}), json!({})),
        ("prompt", json!(vec!["x"; 17]), json!({})),
        ("prompt[1]", json!(["a", 1]), json!({})),
        ("echo", json!("a"), json!({"echo": true})),
        ("suffix", json!("a"), json!({"suffix": "b"})),
        ("logprobs", json!("a"), json!({"logprobs": true})),
        ("logprobs", json!("a"), json!({"logprobs": 21})),
        ("best_of", json!("a"), json!({"best_of": 2})),
    ];
    for (field, prompt, more) in cases {
        let reply = complete(&server, prompt, more).await;
        let message = reply.json()["error"]["message"].to_string();
        assert_eq!(reply.status, 400, "{field}: {message}");
        assert!(
            message.contains(&format!("`{field}`")),
            "{field}: {message}"
        );
    }
    let missing = ask_at(server.address, "/v1/completions", &json!({})).await;
    assert_eq!(missing.status, 400);
}
