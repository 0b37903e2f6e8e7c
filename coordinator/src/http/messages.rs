//! `POST /v1/messages`, Anthropic's way to ask for an answer, and `POST /v1/messages/count_tokens`. The shapes are those of
//! <https://docs.anthropic.com/en/api/messages>; the way of a question is that of a chat completion.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use super::messages_reply::MessageHead;
use super::messages_request::{CountRequest, MessagesRequest};
use super::messages_stream::MessageStream;
use super::models::check_model;
use super::reply_whole::collect;
use super::request_log::RequestLog;
use super::{ApiState, body, reply_stream};
use crate::answer::Input;

/// How long a prompt is.
#[derive(Serialize)]
pub(super) struct Count {
    input_tokens: usize,
}

pub(super) async fn messages(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let id = MessageHead::random_id();
    let mut log = RequestLog::start(id.clone(), &state.metrics);
    let reply = reply(&state, request, id, &mut log).await;
    log.response(reply)
}

pub(super) async fn count_tokens(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<Count>, ApiError> {
    let request = body::parse_with(body::read(request).await?, CountRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let input_tokens = state.answerer.n_prompt(Input::Chat(request.chat)).await?;
    Ok(Json(Count { input_tokens }))
}

/// The log line is finished where the answer ends: here, or in the stream, which then takes the log over.
async fn reply(
    state: &ApiState,
    request: Request,
    id: String,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let request = body::parse_with(body::read(request).await?, MessagesRequest::parse).await?;
    let model = state.answerer.model();
    check_model(request.model.as_deref(), &model.name)?;
    let stops = request.question.stop.clone();
    let mut choices = state.answerer.choices(request.question, 1).await?;
    log.accepted(choices.n_prompt());
    let head = MessageHead {
        id,
        model: model.name.clone(),
        stops,
        n_prompt: choices.n_prompt(),
    };
    if request.stream {
        let shape = MessageStream::new(&choices, head);
        return reply_stream::response(choices, shape, log).await;
    }
    let (answers, timings) = collect(&mut choices, false, &model.tokenizer, log).await?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let whole = head.whole(&answer, choices.parser(), &timings);
    Ok(Json(whole).into_response())
}
