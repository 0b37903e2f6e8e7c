//! `POST /v1/chat/completions`: from a request to a whole reply or the start of a streamed one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::chat_reply::ReplyHead;
use super::chat_request::{ChatRequest, Reply};
use super::chat_stream::ChatStream;
use super::error::ApiError;
use super::models::check_model;
use super::reply_whole::collect;
use super::request_log::RequestLog;
use super::{ApiState, body, reply_stream};

pub(super) async fn completions(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let head = ReplyHead::new("chatcmpl", &state.answerer.model().name);
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
    let request = body::parse_with(body::read(request).await?, ChatRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let asks_logprobs = request.question.sampling.top_logprobs.is_some();
    let mut choices = state.answerer.choices(request.question, request.n).await?;
    log.accepted(choices.n_prompt());
    let tokenizer = Arc::clone(&state.answerer.model().tokenizer);
    match request.reply {
        Reply::Whole => {
            let (answers, timings) = collect(&mut choices, asks_logprobs, &tokenizer, log).await?;
            let whole = head.whole(answers, &choices.parser(), &timings);
            Ok(Json(whole).into_response())
        }
        Reply::Stream { include_usage } => {
            let shape = ChatStream::new(&choices, tokenizer, head, include_usage);
            reply_stream::response(choices, shape, log).await
        }
    }
}
