//! What is served, as llama.cpp's clients ask for it.

use serde_json::json;

use crate::client::{ask_at, chat, get, with};
use crate::model;
use crate::server::{self, Setup, USUAL};

#[tokio::test]
async fn props_name_the_model_and_its_limits() {
    let server = server::start(Setup {
        template: Some(model::HERMES),
        ..USUAL
    })
    .await;
    let props = get(server.address, "/props").await.json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 256);
    let params = &props["default_generation_settings"]["params"];
    assert_eq!(params["temperature"], 1.0);
    assert_eq!(params["top_k"], 40);
    assert_eq!(props["total_slots"], 4);
    assert_eq!(props["model_alias"], model::NAME);
    assert_eq!(props["model_path"], model::NAME);
    assert_eq!(props["chat_template"], model::HERMES);
    assert_eq!(
        props["chat_template_caps"],
        json!({"supports_tools": true, "supports_tool_calls": true})
    );
    assert_eq!(
        (&props["bos_token"], &props["eos_token"]),
        (&json!("<s>"), &json!("</s>"))
    );
    assert!(
        props["build_info"]
            .as_str()
            .unwrap()
            .starts_with("potluck ")
    );
}

#[tokio::test]
async fn a_model_that_does_not_chat_has_no_template() {
    let server = server::start(Setup {
        template: None,
        up: false,
        ..USUAL
    })
    .await;
    let props = get(server.address, "/props").await.json();
    assert_eq!(props["chat_template"], "");
    assert_eq!(props["total_slots"], 0);
    let refused = ask_at(server.address, "/apply-template", &chat("x")).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn apply_template_shows_the_prompt() {
    let server = server::start(USUAL).await;
    let reply = ask_at(server.address, "/apply-template", &chat("a</s>")).await;
    assert_eq!(reply.json(), json!({"prompt": "user:a</s></s>assistant:"}));
    let other = with(chat("a"), json!({"model": "other"}));
    assert_eq!(
        ask_at(server.address, "/apply-template", &other)
            .await
            .status,
        404
    );
    assert_eq!(
        ask_at(server.address, "/apply-template", &json!({}))
            .await
            .status,
        400
    );
    assert_eq!(server.engine.status().n_prompt_tokens, 0);
}
