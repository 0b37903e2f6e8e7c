//! One log line for each request for an answer, when it ends, however it ends. Counts and times only: never a word of a
//! prompt or an answer, nor an error's message, which may quote one.

use std::time::Instant;

use super::error::ApiError;
use crate::answer::Timings;

/// Collects the line, and writes it when dropped.
pub(super) struct RequestLog {
    /// Empty once another has taken over.
    id: String,
    started: Instant,
    outcome: &'static str,
    error: String,
    status: u16,
    prompt_tokens: u32,
    predicted_tokens: u32,
    prompt_ms: f64,
    predicted_ms: f64,
}

impl RequestLog {
    pub(super) fn start(id: String) -> RequestLog {
        RequestLog {
            id,
            started: Instant::now(),
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
        std::mem::replace(self, RequestLog::start(String::new()))
    }

    pub(super) fn accepted(&mut self, prompt_tokens: u32) {
        self.prompt_tokens = prompt_tokens;
    }

    pub(super) fn predicted(&mut self, tokens: u32) {
        self.predicted_tokens = tokens;
    }

    pub(super) fn done(&mut self, timings: &Timings) {
        self.outcome = "done";
        self.prompt_tokens = timings.prompt_tokens;
        self.predicted_tokens = timings.predicted_tokens;
        self.prompt_ms = timings.prompt_ms;
        self.predicted_ms = timings.predicted_ms;
    }

    /// The request got an error instead of an answer.
    pub(super) fn refused(&mut self, error: &ApiError) {
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

impl Drop for RequestLog {
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
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
