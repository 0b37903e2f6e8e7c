//! `GET /v1/models`: the model that is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use super::ApiState;
use super::error::ApiError;
use crate::answer::ServedModel;

#[derive(Serialize)]
pub(super) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

#[derive(Serialize)]
pub(super) struct ModelCard {
    id: String,
    object: &'static str,
    /// Unix time in seconds.
    created: u64,
    owned_by: &'static str,
    meta: ModelMeta,
}

/// What llama.cpp's clients look for beyond OpenAI's fields.
#[derive(Serialize)]
struct ModelMeta {
    n_ctx: u32,
    n_vocab: usize,
}

impl From<&ServedModel> for ModelCard {
    fn from(model: &ServedModel) -> ModelCard {
        ModelCard {
            id: model.name.clone(),
            object: "model",
            created: model.created,
            owned_by: "potluck",
            meta: ModelMeta {
                n_ctx: model.context_tokens,
                n_vocab: model.tokenizer.n_vocab(),
            },
        }
    }
}

pub(super) async fn list(State(state): State<Arc<ApiState>>) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: vec![state.answerer.model().into()],
    })
}

pub(super) async fn one(
    State(state): State<Arc<ApiState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    let Path(id) =
        id.map_err(|_| ApiError::invalid("the model's name in the address is not UTF-8"))?;
    let model = state.answerer.model();
    if id != model.name {
        return Err(ApiError::model_not_found(&id, &model.name));
    }
    Ok(Json(model.into()))
}

/// A request may leave the model out, but not ask for another.
pub(super) fn check_model(asked: Option<&str>, served: &str) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked != served => Err(ApiError::model_not_found(asked, served)),
        _ => Ok(()),
    }
}
