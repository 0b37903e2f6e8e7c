//! What a model thinks before it answers, and what the template is told about it.

use serde_json::{Value, json};

use crate::client::{ask, ask_at, chat, with};
use crate::model;
use crate::server::{self, Server, Setup, USUAL};

const THINKS: Setup = Setup {
    context_tokens: 4096,
    template: Some(model::HERMES),
    ..USUAL
};

async fn message(server: &Server, says: &str, options: Value) -> Value {
    let reply = ask(server.address, &with(chat(&format!("say:{says}")), options)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["choices"][0]["message"].clone()
}

fn thoughtful(thought: &str, content: &str) -> Value {
    json!({"role": "assistant", "content": content, "reasoning_content": thought})
}

#[tokio::test]
async fn thoughts_are_a_field_of_their_own() {
    let server = server::start(THINKS).await;
    let says = "<think>\nhm\n</think>\n\nyes";
    assert_eq!(
        message(&server, says, json!({})).await,
        thoughtful("hm", "yes")
    );
    let plain = json!({"role": "assistant", "content": says});
    let unread = json!({"reasoning_format": "none"});
    assert_eq!(message(&server, says, unread).await, plain);
    let options = json!({"stream": true});
    let reply = ask(server.address, &with(chat(&format!("say:{says}")), options)).await;
    let of = |field: &str| -> Vec<String> {
        let chunks = reply.chunks().into_iter();
        let deltas = chunks.map(|chunk| chunk["choices"][0]["delta"][field].clone());
        deltas
            .filter_map(|text| text.as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(of("reasoning_content"), ["h", "m"]);
    assert_eq!(of("content"), ["y", "e", "s"]);
}

#[tokio::test]
async fn a_thought_that_the_template_begins_ends_in_the_answer() {
    let server = server::start(THINKS).await;
    let think = json!({"chat_template_kwargs": {"enable_thinking": true}});
    let says = "hm\n</think>\nyes";
    assert_eq!(
        message(&server, says, think.clone()).await,
        thoughtful("hm", "yes")
    );
    assert!(server.ring.prompt.borrow().ends_with("assistant:<think>\n"));
    let unread = with(think, json!({"reasoning_format": "none"}));
    assert_eq!(message(&server, says, unread).await["content"], says);
    assert_eq!(message(&server, says, json!({})).await["content"], says);
}

#[tokio::test]
async fn the_template_is_told_how_much_to_think() {
    let server = server::start(THINKS).await;
    let on = json!({"enable_thinking": true});
    let cases = [
        (json!({"reasoning_effort": "high"}), "highassistant:"),
        (json!({"reasoning_effort": "none"}), "noneassistant:"),
        (
            json!({"reasoning_effort": "none", "chat_template_kwargs": on}),
            "noneassistant:<think>\n",
        ),
        (
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "x"}}),
            "xassistant:",
        ),
        (json!({"add_generation_prompt": false}), "user:x</s>"),
    ];
    for (options, end) in cases {
        let body = with(chat("x"), options);
        let reply = ask_at(server.address, "/apply-template", &body).await;
        let prompt = reply.json()["prompt"].as_str().unwrap().to_owned();
        assert!(prompt.ends_with(end), "{body}: {prompt}");
    }
}
