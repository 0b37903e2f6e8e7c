//! `POST /v1/chat/completions`: from a request to a whole reply or the start of a streamed one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::chat_logprobs::ChoiceLogprobs;
use super::chat_reply::{ReplyHead, WholeAnswer};
use super::chat_request::{ChatRequest, Reply};
use super::chat_stream::ChatStream;
use super::error::ApiError;
use super::request_log::RequestLog;
use super::{ApiState, body};
use crate::answer::{AnswerError, AnswerEvent, Choices, Timings};
use crate::text::Tokenizer;

/// How long a streamed reply waits for the first text before it promises success. What fails within this time has a status of
/// its own; a prompt that takes longer is under way, and its client should see signs of life.
pub(super) const FIRST_TEXT_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn completions(State(state): State<Arc<ApiState>>, request: Request) -> Response {
    let head = ReplyHead::new(&state.answerer.model().name);
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
    head: ReplyHead,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let request = body::parse_with(body::read(request).await?, ChatRequest::parse).await?;
    check_model(request.model.as_deref(), &state.answerer.model().name)?;
    let asks_logprobs = request.question.sampling.top_logprobs.is_some();
    let blank = WholeAnswer {
        logprobs: asks_logprobs.then(ChoiceLogprobs::default),
        ..Default::default()
    };
    let mut choices = state.answerer.choices(request.question, request.n).await?;
    log.accepted(choices.n_prompt());
    let tokenizer = Arc::clone(&state.answerer.model().tokenizer);
    match request.reply {
        Reply::Whole => {
            let (answers, timings) = collect(&mut choices, blank, &tokenizer, log).await?;
            log.done(&timings);
            let whole = head.whole(answers, &choices.parser(), &timings);
            Ok(Json(whole).into_response())
        }
        Reply::Stream { include_usage } => {
            let first = tokio::time::timeout(FIRST_TEXT_WITHIN, first_text(&mut choices)).await;
            let first = first.ok().transpose()?;
            let stream = ChatStream::new(choices, tokenizer, head, include_usage, log.take());
            Ok(stream.response(first))
        }
    }
}

pub(super) fn check_model(asked: Option<&str>, served: &str) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked != served => Err(ApiError::model_not_found(asked, served)),
        _ => Ok(()),
    }
}

/// All answers to their ends, and their accounts in one.
pub(super) async fn collect(
    choices: &mut Choices,
    blank: WholeAnswer,
    tokenizer: &Tokenizer,
    log: &mut RequestLog,
) -> Result<(Vec<WholeAnswer>, Timings), ApiError> {
    let mut answers = vec![blank; choices.n() as usize];
    let mut timings = Vec::new();
    while timings.len() < answers.len() {
        let (index, event) = next(choices).await?;
        let answer = &mut answers[index as usize];
        match event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                answer.append(&delta, tokenizer);
                log.predicted(choices.n_predicted());
            }
            AnswerEvent::Done(done) => {
                answer.finish = Some(done.finish);
                timings.push(done.timings);
            }
            AnswerEvent::Failed(error) => return Err(error.into()),
        }
    }
    Ok((answers, choices.timings(&timings)))
}

/// The first event that a client sees something of.
pub(super) async fn first_text(choices: &mut Choices) -> Result<(u32, AnswerEvent), ApiError> {
    loop {
        match next(choices).await? {
            (_, AnswerEvent::Progress { .. }) => {}
            (_, AnswerEvent::Failed(error)) => return Err(error.into()),
            event => return Ok(event),
        }
    }
}

async fn next(choices: &mut Choices) -> Result<(u32, AnswerEvent), ApiError> {
    choices
        .next()
        .await
        .ok_or_else(|| AnswerError::EndedEarly.into())
}
