//! One log line and one entry of the metrics for each request for an answer, when it ends, however it ends. Counts and times only: never a word of a
//! prompt or an answer, nor an error's message, which may quote one.

use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::metrics::{Metrics, Outcome, Times};
use crate::answer::Timings;

/// Collects the line, and writes it when dropped.
pub(super) struct RequestLog {
    /// Empty once another has taken over.
    id: String,
    metrics: Metrics,
    started: Instant,
    first_token: Option<Instant>,
    outcome: &'static str,
    error: String,
    status: u16,
    prompt_tokens: u32,
    predicted_tokens: u32,
    prompt_ms: f64,
    predicted_ms: f64,
}

impl RequestLog {
    pub(super) fn start(id: String, metrics: &Metrics) -> RequestLog {
        RequestLog {
            id,
            metrics: metrics.clone(),
            started: Instant::now(),
            first_token: None,
            // Unless something else is said before the log is dropped.
            outcome: "disconnected",
            error: String::new(),
            status: 200,
            prompt_tokens: 0,
            predicted_tokens: 0,
            prompt_ms: 0.0,
            predicted_ms: 0.0,
        }
    }

    /// Hands the line over to whoever sees the end of the answer.
    pub(super) fn take(&mut self) -> RequestLog {
        let nothing = RequestLog::start(String::new(), &self.metrics);
        std::mem::replace(self, nothing)
    }

    pub(super) fn accepted(&mut self, prompt_tokens: u32) {
        self.prompt_tokens = prompt_tokens;
    }

    pub(super) fn predicted(&mut self, tokens: u32) {
        self.predicted_tokens = tokens;
        self.first_token.get_or_insert_with(Instant::now);
    }

    pub(super) fn done(&mut self, timings: &Timings) {
        self.outcome = "done";
        self.prompt_tokens = timings.prompt_tokens;
        self.predicted_tokens = timings.predicted_tokens;
        self.prompt_ms = timings.prompt_ms;
        self.predicted_ms = timings.predicted_ms;
    }

    /// The response of a reply, or of the error in its place.
    pub(super) fn response(&mut self, reply: Result<Response, ApiError>) -> Response {
        reply.unwrap_or_else(|error| {
            self.refused(&error);
            error.into_response()
        })
    }

    /// The request got an error instead of an answer.
    fn refused(&mut self, error: &ApiError) {
        self.outcome = "refused";
        self.status = error.status().as_u16();
        self.error = format!("{:?}", error.kind());
    }

    /// The answer broke off.
    pub(super) fn failed(&mut self, error: &ApiError) {
        self.outcome = "failed";
        self.error = format!("{:?}", error.kind());
    }
}

impl RequestLog {
    fn count(&self) {
        let outcome = Outcome {
            outcome: self.outcome,
            status: self.status,
        };
        // The first token comes out of the prompt's computation.
        let n_gaps = f64::from(self.predicted_tokens.saturating_sub(1));
        let per_token = (self.outcome == "done" && n_gaps > 0.0)
            .then(|| Duration::from_secs_f64(self.predicted_ms.max(0.0) / 1e3 / n_gaps));
        self.metrics.ended(
            &outcome,
            &Times {
                whole: self.started.elapsed(),
                first_token: self.first_token.map(|at| at - self.started),
                per_token,
            },
        );
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
        self.count();
        tracing::info!(
            id = self.id,
            outcome = self.outcome,
            status = self.status,
            error = self.error,
            prompt_tokens = self.prompt_tokens,
            predicted_tokens = self.predicted_tokens,
            prompt_ms = self.prompt_ms,
            predicted_ms = self.predicted_ms,
            total_ms = self.started.elapsed().as_millis() as u64,
            "chat request ended"
        );
    }
}
