//! A streamed reply: server-sent events as the answers grow, in the shape of the API that was asked.
//!
//! The stream owns the answers, and the connection owns the stream: a client that goes away takes all of it along, which cancels
//! the sequences. An error in the middle is one last event, for the status has long been sent.

use std::collections::VecDeque;
use std::time::Duration;

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream;

use super::error::ApiError;
use super::reply_whole::next;
use super::request_log::RequestLog;
use super::sse;
use crate::answer::{AnswerEvent, Choices, Delta, Done, Timings};

/// How long a streamed reply waits for the first text before it promises success. What fails within this time has a status of
/// its own; a prompt that takes longer is under way, and its client should see signs of life.
const FIRST_TEXT_WITHIN: Duration = Duration::from_secs(10);

/// How an API words a streamed reply.
pub(super) trait Shape: Send + 'static {
    /// What comes before the first text.
    fn opening(&mut self) -> Vec<Event>;
    /// An answer has grown.
    fn piece(&mut self, index: u32, delta: &Delta) -> Vec<Event>;
    /// An answer is complete.
    fn closing(&mut self, index: u32, done: &Done) -> Vec<Event>;
    /// All answers are.
    fn end(&mut self, timings: &Timings) -> Vec<Event>;
    /// The answers broke off.
    fn error(&self, error: &ApiError) -> Event;
    /// What is said while there is nothing to say.
    fn ping(&self) -> KeepAlive {
        KeepAlive::new()
    }
}

struct ReplyStream<S> {
    /// `None` after the end.
    choices: Option<Choices>,
    shape: S,
    log: RequestLog,
    /// Of the answers that are complete.
    timings: Vec<Timings>,
    ready: VecDeque<Event>,
}

/// The response that streams these answers, once the first text is here or long in coming.
pub(super) async fn response<S: Shape>(
    mut choices: Choices,
    mut shape: S,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let first = tokio::time::timeout(FIRST_TEXT_WITHIN, first_text(&mut choices)).await;
    let first = first.ok().transpose()?;
    let ping = shape.ping();
    let mut stream = ReplyStream {
        ready: shape.opening().into(),
        choices: Some(choices),
        shape,
        log: log.take(),
        timings: Vec::new(),
    };
    if let Some((index, first)) = first {
        stream.apply(index, first);
    }
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((event, stream))
    });
    Ok(sse::response(events, ping))
}

/// The first event that a client sees something of.
async fn first_text(choices: &mut Choices) -> Result<(u32, AnswerEvent), ApiError> {
    loop {
        match next(choices).await? {
            (_, AnswerEvent::Progress { .. }) => {}
            (_, AnswerEvent::Failed(error)) => return Err(error.into()),
            event => return Ok(event),
        }
    }
}

impl<S: Shape> ReplyStream<S> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (index, event) = self.choices.as_mut()?.next().await?;
            self.apply(index, event);
        }
    }

    fn apply(&mut self, index: u32, event: AnswerEvent) {
        match event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                let n_predicted = self.choices.as_ref().map_or(0, Choices::n_predicted);
                self.log.predicted(n_predicted);
                self.ready.extend(self.shape.piece(index, &delta));
            }
            AnswerEvent::Done(done) => {
                self.ready.extend(self.shape.closing(index, &done));
                self.timings.push(done.timings);
                self.end_if_complete();
            }
            AnswerEvent::Failed(error) => {
                let error = ApiError::from(error);
                self.log.failed(&error);
                self.choices = None;
                self.ready.push_back(self.shape.error(&error));
            }
        }
    }

    fn end_if_complete(&mut self) {
        let Some(choices) = &self.choices else { return };
        if self.timings.len() < choices.n() as usize {
            return;
        }
        let timings = choices.timings(&self.timings);
        self.log.done(&timings);
        self.choices = None;
        self.ready.extend(self.shape.end(&timings));
    }
}
