//! `POST /v1/chat/completions`: from a request to a whole reply or the start of a streamed one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::chat_reply::ReplyHead;
use super::chat_request::{ChatRequest, Reply};
use super::chat_stream;
use super::error::ApiError;
use super::request_log::RequestLog;
use super::{ApiState, body};
use crate::answer::{Answer, AnswerError, AnswerEvent, Done};

/// How long a streamed reply waits for the first text before it promises success. What fails within this time has a status of
/// its own; a prompt that takes longer is under way, and its client should see signs of life.
const FIRST_TEXT_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn completions(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let head = ReplyHead::new(&state.answerer.model().name);
    let mut log = RequestLog::start(head.id.clone());
    match reply(&state, request, head, &mut log).await {
        Ok(response) => response,
        Err(error) => {
            log.refused(&error);
            error.into_response()
        }
    }
}

/// The log line is finished where the answer ends: here, or in the stream, which then takes the log over.
async fn reply(
    state: &ApiState,
    request: Request,
    head: ReplyHead,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let request = body::parse_with(body::read(request).await?, ChatRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let mut answer = state.answerer.answer(request.question).await?;
    log.accepted(answer.n_prompt());
    match request.reply {
        Reply::Whole => {
            let (text, done) = collect(&mut answer, log).await?;
            log.done(&done);
            Ok(Json(head.whole(&text, &done)).into_response())
        }
        Reply::Stream { include_usage } => {
            let first = tokio::time::timeout(FIRST_TEXT_WITHIN, first_text(&mut answer)).await;
            let first = first.ok().transpose()?;
            Ok(chat_stream::response(
                answer,
                first,
                head,
                include_usage,
                log.take(),
            ))
        }
    }
}

fn check_model(asked: Option<&str>, served: &str) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked != served => Err(ApiError::model_not_found(asked, served)),
        _ => Ok(()),
    }
}

async fn collect(answer: &mut Answer, log: &mut RequestLog) -> Result<(String, Done), ApiError> {
    let mut text = String::new();
    loop {
        match next(answer).await? {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                text.push_str(&delta.text);
                log.predicted(answer.n_predicted());
            }
            AnswerEvent::Done(done) => return Ok((text, done)),
            AnswerEvent::Failed(error) => return Err(error.into()),
        }
    }
}

/// The first event that a client sees something of.
async fn first_text(answer: &mut Answer) -> Result<AnswerEvent, ApiError> {
    loop {
        match next(answer).await? {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Failed(error) => return Err(error.into()),
            event => return Ok(event),
        }
    }
}

async fn next(answer: &mut Answer) -> Result<AnswerEvent, ApiError> {
    answer
        .next()
        .await
        .ok_or_else(|| AnswerError::EndedEarly.into())
}
