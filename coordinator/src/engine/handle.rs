//! The engine as others hold it: a handle to ask with, and the events of one request.

use potluck_proto::SeqId;
use tokio::sync::{mpsc, oneshot, watch};

use super::{GenerateError, GenerateEvent, GenerateRequest};

/// Asks the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    pub(super) submits: mpsc::Sender<Submit>,
    pub(super) status: watch::Receiver<EngineStatus>,
}

/// A request on its way to the engine.
#[derive(Debug)]
pub(super) struct Submit {
    pub request: GenerateRequest,
    pub reply: oneshot::Sender<Result<Generation, GenerateError>>,
}

/// The engine in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// Why requests are refused; `None` when the ring is up.
    pub not_ready: Option<String>,
    /// Places in the ring; 0 while it is down.
    pub max_sequences: u32,
    /// Requests with a place in the ring.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Steps that the ring has not returned.
    pub steps_in_flight: usize,
    /// Prompt tokens sent to the ring since the engine started.
    pub n_prompt_tokens: u64,
    /// Tokens of answers since the engine started.
    pub n_generated_tokens: u64,
}

impl EngineHandle {
    /// Starts an answer. Requests that cannot be served are refused here, before anything is computed.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, GenerateError> {
        let (reply, answer) = oneshot::channel();
        let submit = Submit { request, reply };
        self.submits.send(submit).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The engine as of its last event.
    pub fn status(&self) -> EngineStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch_status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }
}

/// An answer in the making: a stream of events that ends with `Finished` or `Failed`. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    id: SeqId,
    // Without a bound, because the engine must not wait for a slow client; in effect an answer's tokens, its chunks of
    // prompt and its moves in the queue are the bound.
    events: mpsc::UnboundedReceiver<GenerateEvent>,
    // Without a bound, because `drop` cannot wait; each generation sends one id.
    cancels: mpsc::UnboundedSender<SeqId>,
    ended: bool,
}

impl Generation {
    pub(super) fn new(
        id: SeqId,
        events: mpsc::UnboundedReceiver<GenerateEvent>,
        cancels: mpsc::UnboundedSender<SeqId>,
    ) -> Self {
        Generation {
            id,
            events,
            cancels,
            ended: false,
        }
    }

    /// The sequence, for logs.
    pub fn id(&self) -> SeqId {
        self.id
    }

    /// The next event; `None` after the last. Safe to cancel: no event is lost.
    pub async fn next(&mut self) -> Option<GenerateEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        let event = event.unwrap_or_else(|| GenerateEvent::Failed(stopped()));
        self.ended = event.is_last();
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            // An engine that is gone has nothing to cancel.
            let _ = self.cancels.send(self.id);
        }
    }
}

fn stopped() -> GenerateError {
    GenerateError::NotReady {
        why: "the coordinator is shutting down".into(),
    }
}
