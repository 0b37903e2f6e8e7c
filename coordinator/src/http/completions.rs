//! `POST /v1/completions`: text that is gone on with as it stands, in OpenAI's older shape. The way of a question is that of a chat
//! completion; several prompts are several questions.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::chat::{FIRST_TEXT_WITHIN, check_model, collect, first_text};
use super::chat_logprobs::ChoiceLogprobs;
use super::chat_reply::WholeAnswer;
use super::chat_request::Reply;
use super::completion_reply::TextHead;
use super::completion_request::CompletionRequest;
use super::completion_stream::TextStream;
use super::error::ApiError;
use super::request_log::RequestLog;
use super::{ApiState, body};

pub(super) async fn completions(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let head = TextHead::new(&state.answerer.model().name);
    let mut log = RequestLog::start(head.id.clone(), &state.metrics);
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
    head: TextHead,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let request = body::parse_with(body::read(request).await?, CompletionRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let blank = WholeAnswer {
        logprobs: request.asks_logprobs.then(ChoiceLogprobs::default),
        ..Default::default()
    };
    let answerer = &state.answerer;
    let mut choices = answerer.choices_of(request.questions, request.n).await?;
    log.accepted(choices.n_prompt());
    let tokenizer = Arc::clone(&answerer.model().tokenizer);
    match request.reply {
        Reply::Whole => {
            let (answers, timings) = collect(&mut choices, blank, &tokenizer, log).await?;
            log.done(&timings);
            Ok(Json(head.whole(&answers, &timings)).into_response())
        }
        Reply::Stream { include_usage } => {
            let first = tokio::time::timeout(FIRST_TEXT_WITHIN, first_text(&mut choices)).await;
            let first = first.ok().transpose()?;
            let stream = TextStream::new(choices, tokenizer, head, include_usage, log.take());
            Ok(stream.response(first))
        }
    }
}
