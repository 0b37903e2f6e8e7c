//! `GET /props`: what is served and with which defaults, in the shape of llama.cpp's server.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_proto::Sampling;
use serde::Serialize;

use super::ApiState;
use super::chat_sampling::default_sampling;
use crate::text::{ChatTemplate, TemplateCaps};

#[derive(Serialize)]
pub(super) struct Props {
    default_generation_settings: Settings,
    /// Answers that are computed at the same time; 0 while the cluster cannot compute.
    total_slots: u32,
    model_alias: String,
    /// The name alone: where the file lies is nobody's business.
    model_path: String,
    modalities: Modalities,
    /// Empty for a model that has none.
    chat_template: String,
    chat_template_caps: Caps,
    bos_token: String,
    eos_token: String,
    build_info: &'static str,
}

#[derive(Serialize)]
struct Settings {
    n_ctx: u32,
    params: Params,
}

/// What holds for a request that says nothing else.
#[derive(Serialize)]
struct Params {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repeat_last_n: u32,
    repeat_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    /// -1: until the model ends the answer or the context is full.
    max_tokens: i32,
    reasoning_format: &'static str,
}

#[derive(Serialize)]
struct Modalities {
    vision: bool,
    audio: bool,
}

#[derive(Serialize)]
struct Caps {
    supports_tools: bool,
    supports_tool_calls: bool,
}

pub(super) async fn props(State(state): State<Arc<ApiState>>) -> Json<Props> {
    let model = state.answerer.model();
    let template = model.template.as_ref();
    let tokenizer = &model.tokenizer;
    Json(Props {
        default_generation_settings: Settings {
            n_ctx: model.context_tokens,
            params: default_sampling().into(),
        },
        total_slots: state.answerer.engine_status().max_sequences,
        model_alias: model.name.clone(),
        model_path: model.name.clone(),
        modalities: Modalities {
            vision: false,
            audio: false,
        },
        chat_template: template.map_or_else(String::new, |template| template.written().to_owned()),
        chat_template_caps: template.map(ChatTemplate::caps).unwrap_or_default().into(),
        bos_token: tokenizer.bos_text().unwrap_or_default().to_owned(),
        eos_token: tokenizer.eos_text().unwrap_or_default().to_owned(),
        build_info: concat!("potluck ", env!("CARGO_PKG_VERSION")),
    })
}

impl From<Sampling> for Params {
    fn from(sampling: Sampling) -> Params {
        Params {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_last_n: sampling.penalty_window,
            repeat_penalty: sampling.repeat_penalty,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            max_tokens: -1,
            reasoning_format: "auto",
        }
    }
}

impl From<TemplateCaps> for Caps {
    fn from(caps: TemplateCaps) -> Caps {
        Caps {
            supports_tools: caps.tools,
            supports_tool_calls: caps.tool_calls,
        }
    }
}
