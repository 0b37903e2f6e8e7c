//! Server-sent events, as all streamed replies send them.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt};
use serde::Serialize;

/// How often a sign of life is sent while there is nothing to say. Proxies commonly give up after 60 seconds of silence.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The response that sends these events as they come, and what `ping` says while none come.
pub(super) fn response(
    events: impl Stream<Item = Event> + Send + 'static,
    ping: KeepAlive,
) -> Response {
    let mut response = Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(ping.interval(PING_EVERY))
        .into_response();
    // Asks a proxy in between not to collect events before it passes them on.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Our own shapes always become JSON; should one not, the event says nothing rather than something broken.
pub(super) fn event(data: &impl Serialize) -> Event {
    Event::default().json_data(data).unwrap_or_default()
}

/// As `event`, with a name in front.
pub(super) fn named(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name).json_data(data);
    event.unwrap_or_default()
}

/// What OpenAI's streams end with.
pub(super) fn done() -> Event {
    Event::default().data("[DONE]")
}
