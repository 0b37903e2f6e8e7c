//! Answers that the client has begun: the model goes on where they end.

use serde_json::{Value, json};

use crate::client::{ask, ask_at};
use crate::model;
use crate::server::{self, Server, Setup, USUAL};

const HERMES: Setup = Setup {
    context_tokens: 4096,
    template: Some(model::HERMES),
    ..USUAL
};

async fn prompt(server: &Server, last: Value, options: Value) -> String {
    let mut body = options;
    body["messages"] = json!([{"role": "user", "content": "say:on"}, last]);
    let reply = ask_at(server.address, "/apply-template", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["prompt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_begun_answer_is_continued() {
    let server = server::start(USUAL).await;
    let messages = json!([
        {"role": "user", "content": "say:on"},
        {"role": "assistant", "content": [{"type": "text", "text": "Once up</s>"}]},
    ]);
    let reply = ask(server.address, &json!({"messages": messages})).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "on");
    // Its control tokens stay text, as in every message.
    assert_eq!(
        *server.ring.prompt.borrow(),
        "|user:say:on|assistant:Once up</s>"
    );
}

#[tokio::test]
async fn a_call_is_not_begun() {
    let server = server::start(HERMES).await;
    let function = json!({"name": "f", "arguments": "{}"});
    let calls = json!({"role": "assistant", "tool_calls": [{"function": function}]});
    let prompt = prompt(&server, calls, json!({})).await;
    assert!(prompt.ends_with("</tool_call></s>assistant:"), "{prompt}");
}

#[tokio::test]
async fn thoughts_that_were_begun_are_continued_or_closed() {
    let server = server::start(HERMES).await;
    let think = json!({"chat_template_kwargs": {"enable_thinking": true}});
    let thought = json!({"role": "assistant", "reasoning_content": "hm"});
    let both = json!({"role": "assistant", "reasoning_content": "hm", "content": "So"});
    let text = json!({"role": "assistant", "content": "So"});
    let cases = [
        (&thought, json!({}), "assistant:<think>\nhm"),
        (&both, json!({}), "assistant:<think>\nhm\n</think>\n\nSo"),
        (&text, json!({}), "assistant:So"),
        (&thought, think.clone(), "assistant:<think>\nhm"),
        (
            &both,
            think.clone(),
            "assistant:<think>\nhm\n</think>\n\nSo",
        ),
        (&text, think.clone(), "assistant:<think>\n\n</think>\n\nSo"),
    ];
    for (last, options, end) in cases {
        let prompt = prompt(&server, last.clone(), options).await;
        assert!(prompt.ends_with(end), "{last}: {prompt}");
    }
    let say = json!({"role": "user", "content": "say:m</think>yes"});
    let reply = ask(server.address, &json!({"messages": [say, thought]})).await;
    let message = &reply.json()["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "m");
    assert_eq!(message["content"], "yes");
}
