//! The one task that owns the core. `select` waits for one input, `apply` is synchronous and hands it to the core, and
//! then everything is at rest again: nothing else touches a sequence, so there are no locks, and a test drives the same
//! core without this file.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use potluck_proto::{SeqId, Step};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    EngineHandle, EngineStatus, GenerateError, GenerateEvent, Generation, RingEvent,
    core::{Action, Core, Event},
    handle::Submit,
};

/// Requests between the handles and the core. The core takes them at once, so this only smooths a burst.
const SUBMIT_BACKLOG: usize = 16;

/// Starts the engine on the current runtime. It runs until `events` closes.
///
/// `steps` should hold `n_stages + 1` steps, which is all that is ever under way; more waits inside the engine. Whoever
/// feeds `events` keeps the promises in `ring.rs`. Between two plans it sends `Down`, waits until
/// [`EngineStatus::not_ready`] is set (from then on the engine sends nothing), empties `steps`, and sends `Up`: then no
/// step of the old plan can be taken for one of the new.
pub fn spawn(events: mpsc::Receiver<RingEvent>, steps: mpsc::Sender<Step>) -> EngineHandle {
    let core = Core::new();
    let (submits_tx, submits) = mpsc::channel(SUBMIT_BACKLOG);
    let (cancels_tx, cancels) = mpsc::unbounded_channel();
    let (status_tx, status) = watch::channel(core.status());
    let task = Task {
        core,
        started: Instant::now(),
        next_seq: 0,
        clients: HashMap::new(),
        outbox: VecDeque::new(),
        events,
        steps,
        submits: Some(submits),
        cancels,
        cancels_tx,
        status: status_tx,
    };
    tokio::spawn(task.run());
    EngineHandle {
        submits: submits_tx,
        status,
    }
}

struct Task {
    core: Core,
    /// The core's time 0.
    started: Instant,
    next_seq: u64,
    clients: HashMap<SeqId, mpsc::UnboundedSender<GenerateEvent>>,
    /// Steps that `steps` had no room for. Never more than are under way.
    outbox: VecDeque<Step>,
    events: mpsc::Receiver<RingEvent>,
    steps: mpsc::Sender<Step>,
    /// `None` once every handle is gone. Answers that were begun go on.
    submits: Option<mpsc::Receiver<Submit>>,
    cancels: mpsc::UnboundedReceiver<SeqId>,
    cancels_tx: mpsc::UnboundedSender<SeqId>,
    status: watch::Sender<EngineStatus>,
}

enum Input {
    Ring(RingEvent),
    RingClosed,
    Submit(Submit),
    HandlesGone,
    Cancel(SeqId),
    StepSent,
    Deadline,
}

impl Task {
    async fn run(mut self) {
        loop {
            match self.select().await {
                Input::RingClosed => break,
                input => self.apply(input),
            }
        }
        let why = "the coordinator is shutting down".to_string();
        self.apply(Input::Ring(RingEvent::Down { why }));
    }

    /// Waits for one input. What frees the ring and what feeds it comes before new work.
    async fn select(&mut self) -> Input {
        let deadline = self.core.deadline().map(|at| self.started + at);
        tokio::select! {
            biased;
            permit = self.steps.reserve(), if !self.outbox.is_empty() => {
                match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(step)) => permit.send(step),
                    // Nobody reads steps any more. Who held the other end says `Down` or closes `events`.
                    _ => self.outbox.clear(),
                }
                Input::StepSent
            }
            Some(seq) = self.cancels.recv() => Input::Cancel(seq),
            event = self.events.recv() => event.map_or(Input::RingClosed, Input::Ring),
            () = sleep_until(deadline) => Input::Deadline,
            submit = receive(&mut self.submits) => submit.map_or(Input::HandlesGone, Input::Submit),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Ring(event) => self.apply_ring(event),
            Input::Submit(submit) => self.apply_submit(submit),
            Input::Cancel(seq) => {
                self.clients.remove(&seq);
                self.feed(Event::Cancel(seq));
            }
            Input::Deadline => self.feed(Event::Tick),
            Input::HandlesGone => self.submits = None,
            Input::StepSent | Input::RingClosed => {}
        }
        self.publish_status();
    }

    fn apply_ring(&mut self, event: RingEvent) {
        match &event {
            RingEvent::Up(limits) => {
                self.outbox.clear();
                tracing::info!(?limits, "ring is up");
            }
            RingEvent::Down { why } => {
                self.outbox.clear();
                tracing::info!(%why, "ring is down");
            }
            RingEvent::Fault(fault) => tracing::warn!(
                seq = fault.seq.0,
                step = fault.step.0,
                kind = ?fault.kind,
                kv_len = fault.kv_len,
                message = %fault.message,
                "a run was not computed"
            ),
            RingEvent::Result(_) => {}
        }
        self.feed(Event::Ring(event));
    }

    /// A refusal is the reply; anything else goes into the stream that is the reply.
    fn apply_submit(&mut self, submit: Submit) {
        let seq = SeqId(self.next_seq);
        self.next_seq += 1;
        let (events_tx, events) = mpsc::unbounded_channel();
        let actions = self
            .core
            .step(self.now(), Event::Submit(seq, submit.request));
        let reply = match refusal(seq, &actions) {
            Some(error) => Err(error),
            None => {
                self.clients.insert(seq, events_tx);
                Ok(Generation::new(seq, events, self.cancels_tx.clone()))
            }
        };
        reply_or_drop(submit.reply, reply);
        self.perform(actions);
    }

    fn feed(&mut self, event: Event) {
        let actions = self.core.step(self.now(), event);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(step) => self.outbox.push_back(step),
                Action::Emit(seq, event) => self.emit(seq, event),
            }
        }
    }

    /// A client that has gone away cancels through its own channel, so a failed send needs no answer.
    fn emit(&mut self, seq: SeqId, event: GenerateEvent) {
        let is_last = event.is_last();
        if let Some(client) = self.clients.get(&seq) {
            let _ = client.send(event);
        }
        if is_last {
            self.clients.remove(&seq);
        }
    }

    fn publish_status(&self) {
        let status = self.core.status();
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn refusal(seq: SeqId, actions: &[Action]) -> Option<GenerateError> {
    actions.iter().find_map(|action| match action {
        Action::Emit(to, GenerateEvent::Failed(error)) if *to == seq => Some(error.clone()),
        _ => None,
    })
}

/// Where nobody waits for the reply any more, dropping the generation in it cancels the request.
fn reply_or_drop(
    to: oneshot::Sender<Result<Generation, GenerateError>>,
    reply: Result<Generation, GenerateError>,
) {
    drop(to.send(reply));
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn receive(submits: &mut Option<mpsc::Receiver<Submit>>) -> Option<Submit> {
    match submits {
        Some(submits) => submits.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
