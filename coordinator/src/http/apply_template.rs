//! `POST /apply-template`: the prompt that a chat becomes, without an answer. In the shape of llama.cpp's server.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;

use super::chat_request::ChatRequest;
use super::error::ApiError;
use super::models::check_model;
use super::{ApiState, body};

#[derive(Serialize)]
pub(super) struct Applied {
    prompt: String,
}

/// Takes what chat completions take.
pub(super) async fn apply_template(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<Applied>, ApiError> {
    let request = body::parse_with(body::read(request).await?, ChatRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let prompt = state.answerer.render(request.question.input).await?;
    Ok(Json(Applied { prompt }))
}
