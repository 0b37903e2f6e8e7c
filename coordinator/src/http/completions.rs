//! `POST /v1/completions`: text that is gone on with as it stands, in OpenAI's older shape. The way of a question is that of a chat
//! completion; several prompts are several questions.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::chat_reply::ReplyHead;
use super::chat_request::Reply;
use super::completion_request::CompletionRequest;
use super::completion_stream::TextStream;
use super::error::ApiError;
use super::models::check_model;
use super::reply_whole::collect;
use super::request_log::RequestLog;
use super::{ApiState, body, reply_stream};

pub(super) async fn completions(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let head = ReplyHead::new("cmpl", &state.answerer.model().name);
    let mut log = RequestLog::start(head.id.clone(), &state.metrics);
    let reply = reply(&state, request, head, &mut log).await;
    log.response(reply)
}

/// The log line is finished where the answer ends: here, or in the stream, which then takes the log over.
async fn reply(
    state: &ApiState,
    request: Request,
    head: ReplyHead,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let request = body::parse_with(body::read(request).await?, CompletionRequest::parse).await?;
    let answerer = &state.answerer;
    check_model(request.model.as_deref(), &answerer.model().name)?;
    let mut choices = answerer.choices_of(request.questions, request.n).await?;
    log.accepted(choices.n_prompt());
    let tokenizer = Arc::clone(&answerer.model().tokenizer);
    match request.reply {
        Reply::Whole => {
            let asks_logprobs = request.asks_logprobs;
            let (answers, timings) = collect(&mut choices, asks_logprobs, &tokenizer, log).await?;
            Ok(Json(head.whole_text(&answers, &timings)).into_response())
        }
        Reply::Stream { include_usage } => {
            let shape = TextStream::new(&choices, tokenizer, head, include_usage);
            reply_stream::response(choices, shape, log).await
        }
    }
}
