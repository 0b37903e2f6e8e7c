//! A streamed reply: server-sent events, one for each piece of text.
//!
//! The stream owns the answer, and the connection owns the stream: a client that goes away takes all of it along, which cancels
//! the sequence. An error in the middle is one last event, for the status has long been sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Serialize;

use super::chat_reply::ReplyHead;
use super::error::ApiError;
use super::request_log::RequestLog;
use crate::answer::{Answer, AnswerEvent};

/// How often a comment is sent while there is nothing to say. Proxies commonly give up after 60 seconds of silence.
const PING_EVERY: Duration = Duration::from_secs(15);

struct ChatStream {
    /// `None` after the end.
    answer: Option<Answer>,
    head: ReplyHead,
    include_usage: bool,
    log: RequestLog,
    ready: VecDeque<Event>,
}

/// The response that streams an answer, of which `first` has already been taken.
pub(super) fn response(
    answer: Answer,
    first: Option<AnswerEvent>,
    head: ReplyHead,
    include_usage: bool,
    log: RequestLog,
) -> Response {
    let mut stream = ChatStream {
        answer: Some(answer),
        head,
        include_usage,
        log,
        ready: VecDeque::new(),
    };
    stream.ready.push_back(event(&stream.head.opening()));
    if let Some(first) = first {
        stream.apply(first);
    }
    let ping = KeepAlive::new().interval(PING_EVERY);
    let mut response = Sse::new(stream.into_events())
        .keep_alive(ping)
        .into_response();
    // Asks a proxy in between not to collect events before it passes them on.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl ChatStream {
    fn into_events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut stream| async move {
            let event = stream.next().await?;
            Some((Ok(event), stream))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = self.answer.as_mut()?.next().await?;
            self.apply(event);
        }
    }

    fn apply(&mut self, answer_event: AnswerEvent) {
        match answer_event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                let n_predicted = self.answer.as_ref().map_or(0, Answer::n_predicted);
                self.log.predicted(n_predicted);
                if !delta.text.is_empty() {
                    self.ready.push_back(event(&self.head.piece(&delta.text)));
                }
            }
            AnswerEvent::Done(done) => {
                self.log.done(&done);
                self.answer = None;
                self.ready.push_back(event(&self.head.closing(done.finish)));
                if self.include_usage {
                    self.ready
                        .push_back(event(&self.head.accounts(&done.timings)));
                }
                self.ready.push_back(Event::default().data("[DONE]"));
            }
            AnswerEvent::Failed(error) => {
                let error = ApiError::from(error);
                self.log.failed(&error);
                self.answer = None;
                self.ready.push_back(event(&error.body()));
            }
        }
    }
}

/// Our own shapes always become JSON; should one not, the event says nothing rather than something broken.
fn event(data: &impl Serialize) -> Event {
    Event::default().json_data(data).unwrap_or_default()
}
