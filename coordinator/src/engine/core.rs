//! The engine without its edges: `step(now, event)` returns the actions that follow.
//!
//! Everything about sequences is decided here, one event at a time, with time as an argument: the same code runs in
//! production, in tests and in simulation. Each event changes the state, then `settle` brings the engine to rest:
//! requests are admitted while there are places, and steps leave while the ring takes them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use potluck_proto::{Sampling, SeqId, Step, StepId, StepResult, limits};

use super::{
    EngineStatus, FaultKind, FinishReason, Finished, GenerateError, GenerateEvent, GenerateRequest,
    RingEvent, RingLimits, RunFault, flight::FlightRun, flight::Flights, scheduler,
    sequence::Sequence,
};

/// Requests that wait for a place. With eight places and answers of ten seconds the last one waits 40 s; whoever
/// comes after it is better told so at once.
pub const MAX_WAITING: usize = 32;

/// How long the explanation of a run that did not come back is awaited. It travels on the control connection, which
/// nothing delays for longer than a frame; without one the sequence fails all the same.
const FAULT_GRACE: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A new request under a new id, larger than every id before it.
    Submit(SeqId, GenerateRequest),
    /// The client has gone away.
    Cancel(SeqId),
    /// News from the ring.
    Ring(RingEvent),
    /// The time of `Core::deadline` has come.
    Tick,
}

/// Something to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Give the step to the ring.
    Send(Step),
    /// Tell the client. A request that is refused is told `Failed` at once.
    Emit(SeqId, GenerateEvent),
}

/// Every sequence, and what the ring is doing.
#[derive(Debug)]
pub(super) struct Core {
    ring: Ring,
    /// Sequences with a place in the ring, by age. One that has ended keeps its place until its release has been sent,
    /// so the ring never holds more sequences than it promised.
    running: BTreeMap<SeqId, Sequence>,
    waiting: VecDeque<Waiting>,
    n_prompt_tokens: u64,
    n_generated_tokens: u64,
}

#[derive(Debug)]
enum Ring {
    Down {
        why: String,
    },
    Up {
        limits: RingLimits,
        flights: Flights,
    },
}

#[derive(Debug)]
struct Waiting {
    sequence: Sequence,
    told_position: Option<u32>,
}

impl Core {
    /// An engine whose ring is not up yet.
    pub fn new() -> Self {
        Core {
            ring: Ring::Down {
                why: "no workers have loaded it yet".into(),
            },
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            n_prompt_tokens: 0,
            n_generated_tokens: 0,
        }
    }

    /// Takes one event; returns what follows from it, in order. `now` never goes back.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Submit(seq, request) => self.submit(seq, request, &mut actions),
            Event::Cancel(seq) => self.cancel(seq),
            Event::Ring(RingEvent::Up(limits)) => self.ring_up(limits, &mut actions),
            Event::Ring(RingEvent::Down { why }) => self.ring_down(why, &mut actions),
            Event::Ring(RingEvent::Result(result)) => self.landed(now, result, &mut actions),
            Event::Ring(RingEvent::Fault(fault)) => self.faulted(fault, &mut actions),
            Event::Tick => self.expire(now, &mut actions),
        }
        self.settle(now, &mut actions);
        actions
    }

    /// When `Tick` is due, if at all.
    pub fn deadline(&self) -> Option<Duration> {
        let lost = self.running.values().filter_map(Sequence::lost_run);
        lost.map(|lost| lost.deadline).min()
    }

    /// The state in numbers.
    pub fn status(&self) -> EngineStatus {
        let (not_ready, max_sequences, steps_in_flight) = match &self.ring {
            Ring::Down { why } => (Some(why.clone()), 0, 0),
            Ring::Up { limits, flights } => (None, limits.max_sequences, flights.len()),
        };
        EngineStatus {
            not_ready,
            max_sequences,
            running: self.running.values().filter(|s| !s.has_ended()).count(),
            waiting: self.waiting.len(),
            steps_in_flight,
            n_prompt_tokens: self.n_prompt_tokens,
            n_generated_tokens: self.n_generated_tokens,
        }
    }

    fn submit(&mut self, seq: SeqId, request: GenerateRequest, actions: &mut Vec<Action>) {
        if let Err(error) = self.check(&request) {
            actions.push(Action::Emit(seq, GenerateEvent::Failed(error)));
        } else if request.max_tokens == 0 {
            let finished = Finished {
                reason: FinishReason::Length,
                n_prompt: request.prompt.len() as u32,
                n_generated: 0,
                prompt_ms: 0.0,
                generate_ms: 0.0,
            };
            actions.push(Action::Emit(seq, GenerateEvent::Finished(finished)));
        } else {
            self.waiting.push_back(Waiting {
                sequence: Sequence::new(seq, request),
                told_position: None,
            });
        }
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), GenerateError> {
        let limits = match &self.ring {
            Ring::Up { limits, .. } => limits,
            Ring::Down { why } => return Err(GenerateError::NotReady { why: why.clone() }),
        };
        let n_prompt = request.prompt.len();
        if n_prompt == 0 {
            return Err(GenerateError::PromptEmpty);
        }
        if n_prompt >= limits.context_tokens as usize {
            return Err(GenerateError::PromptTooLong {
                n_prompt,
                context: limits.context_tokens,
            });
        }
        let biased = request.sampling.logit_bias.iter().map(|entry| entry.token);
        let mut ids = request.prompt.iter().copied().chain(biased);
        if let Some(id) = ids.find(|id| *id >= limits.n_vocab) {
            return Err(GenerateError::TokenOutOfVocabulary {
                id,
                n_vocab: limits.n_vocab,
            });
        }
        request
            .sampling
            .validate()
            .map_err(GenerateError::Sampling)?;
        check_protocol(&request.sampling, limits)?;
        let has_place = self.running.len() < limits.max_sequences as usize;
        if !has_place && self.waiting.len() >= MAX_WAITING {
            return Err(GenerateError::QueueFull { limit: MAX_WAITING });
        }
        Ok(())
    }

    fn cancel(&mut self, seq: SeqId) {
        self.waiting.retain(|waiting| waiting.sequence.id != seq);
        if let Some(sequence) = self.running.get_mut(&seq) {
            sequence.end();
        }
    }

    /// A new plan begins with an empty ring. What ran under an older one has no place in it.
    fn ring_up(&mut self, limits: RingLimits, actions: &mut Vec<Action>) {
        self.fail_all("the workers were arranged anew", actions);
        self.ring = Ring::Up {
            limits: limits.within_protocol(),
            flights: Flights::default(),
        };
    }

    fn ring_down(&mut self, why: String, actions: &mut Vec<Action>) {
        self.fail_all(&why, actions);
        self.ring = Ring::Down { why };
    }

    fn fail_all(&mut self, why: &str, actions: &mut Vec<Action>) {
        let running = std::mem::take(&mut self.running).into_values();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let all = running.chain(waiting.map(|waiting| waiting.sequence));
        for sequence in all.filter(|sequence| !sequence.has_ended()) {
            let error = GenerateError::WorkerLost { why: why.into() };
            actions.push(Action::Emit(sequence.id, GenerateEvent::Failed(error)));
        }
    }

    /// A step came back. What it says of sequences that were not in it is ignored.
    fn landed(&mut self, now: Duration, result: StepResult, actions: &mut Vec<Action>) {
        let Ring::Up { limits, flights } = &mut self.ring else {
            return;
        };
        let Some(flight) = flights.land(result.id) else {
            return;
        };
        let limits = *limits;
        for run in flight.runs {
            self.run_landed(now, run, &result, &limits, actions);
        }
    }

    fn run_landed(
        &mut self,
        now: Duration,
        run: FlightRun,
        result: &StepResult,
        limits: &RingLimits,
        actions: &mut Vec<Action>,
    ) {
        let Some(sequence) = self.running.get_mut(&run.seq) else {
            return;
        };
        sequence.run_landed();
        // What follows a lost run was computed without it.
        if sequence.has_ended() || sequence.lost_run().is_some() {
            return;
        }
        let Some(computed) = result.runs.iter().find(|r| r.seq == run.seq) else {
            sequence.run_lost(result.id, now + FAULT_GRACE);
            return;
        };
        match sequence.run_computed(now, run, computed.clone(), limits) {
            Ok(events) => {
                for event in events {
                    self.n_generated_tokens +=
                        u64::from(matches!(event, GenerateEvent::Token { .. }));
                    actions.push(Action::Emit(run.seq, event));
                }
            }
            Err(error) => fail(sequence, error, actions),
        }
    }

    /// A run was not computed. Every kind ends the sequence; a gap could be closed by sending from `kv_len` again once
    /// nothing of the sequence is under way.
    fn faulted(&mut self, fault: RunFault, actions: &mut Vec<Action>) {
        let Ring::Up { flights, .. } = &self.ring else {
            return;
        };
        let Some(sequence) = self.running.get_mut(&fault.seq) else {
            return;
        };
        let lost = sequence.lost_run();
        let explains_lost_run = lost.is_some_and(|lost| lost.step == fault.step);
        let believable = explains_lost_run || flights.carries(fault.step, fault.seq);
        if believable && !sequence.has_ended() {
            let error = GenerateError::Fault {
                kind: fault.kind,
                message: fault.message,
            };
            fail(sequence, error, actions);
        }
    }

    /// Gives up on explanations that did not come.
    fn expire(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for sequence in self.running.values_mut() {
            if let Some(lost) = sequence.lost_run().filter(|lost| lost.deadline <= now) {
                let error = GenerateError::Fault {
                    kind: FaultKind::Unspecified,
                    message: format!("step {} came back without it", lost.step.0),
                };
                fail(sequence, error, actions);
            }
        }
    }

    /// Brings the engine to rest: nobody waits beside a free place, and the ring has all the steps it takes.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        // The ring never heard of these: they leave their places without a release.
        self.running
            .retain(|_, sequence| !sequence.has_ended() || sequence.is_at_ring());
        self.admit(now);
        while let Some(step) = self.next_step() {
            actions.push(Action::Send(step));
            self.admit(now);
        }
        self.tell_positions(actions);
    }

    fn admit(&mut self, now: Duration) {
        let Ring::Up { limits, .. } = &self.ring else {
            return;
        };
        while self.running.len() < limits.max_sequences as usize {
            let Some(Waiting { mut sequence, .. }) = self.waiting.pop_front() else {
                return;
            };
            sequence.admit(now);
            self.running.insert(sequence.id, sequence);
        }
    }

    /// The next step, if the ring takes one and there is something to send. Sequences that it releases lose their
    /// places here: the ring frees them after the step, and whoever takes their places comes in a later one.
    fn next_step(&mut self) -> Option<Step> {
        let Ring::Up { limits, flights } = &mut self.ring else {
            return None;
        };
        if flights.len() >= limits.max_in_flight() {
            return None;
        }
        let picks = scheduler::pick(limits, &self.running, flights.n_decoding());
        let release = releasable(&self.running);
        if picks.is_empty() && release.is_empty() {
            return None;
        }
        let id = flights.next_id();
        let decodes = !picks.decode.is_empty();
        self.n_prompt_tokens += picks
            .prefill
            .iter()
            .map(|p| u64::from(p.n_tokens))
            .sum::<u64>();
        let step = take_step(id, picks, release, &mut self.running);
        flights.depart(&step, decodes);
        Some(step)
    }

    /// Tells those who wait how many are before them, where that has changed.
    fn tell_positions(&mut self, actions: &mut Vec<Action>) {
        for (position, waiting) in (0u32..).zip(&mut self.waiting) {
            if waiting.told_position != Some(position) {
                waiting.told_position = Some(position);
                let event = GenerateEvent::Queued { position };
                actions.push(Action::Emit(waiting.sequence.id, event));
            }
        }
    }
}

/// A worker ignores what it does not know, and does not pass it on: the answer would silently be another one.
fn check_protocol(sampling: &Sampling, limits: &RingLimits) -> Result<(), GenerateError> {
    let (worker, needed) = (limits.protocol, sampling.protocol());
    match worker >= needed {
        true => Ok(()),
        false => Err(GenerateError::WorkerTooOld { worker, needed }),
    }
}

fn fail(sequence: &mut Sequence, error: GenerateError, actions: &mut Vec<Action>) {
    sequence.end();
    actions.push(Action::Emit(sequence.id, GenerateEvent::Failed(error)));
}

fn releasable(running: &BTreeMap<SeqId, Sequence>) -> Vec<SeqId> {
    let done = running.values().filter(|sequence| sequence.can_release());
    done.map(|sequence| sequence.id)
        .take(limits::MAX_STEP_RELEASES)
        .collect()
}

/// Takes what was picked out of the sequences' logs, and the released sequences out of `running`.
fn take_step(
    id: StepId,
    picks: scheduler::Picks,
    release: Vec<SeqId>,
    running: &mut BTreeMap<SeqId, Sequence>,
) -> Step {
    for seq in &release {
        running.remove(seq);
    }
    let rows = picks.decode.into_iter().map(|seq| (seq, 1));
    let chunks = picks.prefill.into_iter().map(|p| (p.seq, p.n_tokens));
    let runs = rows.chain(chunks).filter_map(|(seq, n_tokens)| {
        running
            .get_mut(&seq)
            .map(|sequence| sequence.send(id, n_tokens))
    });
    Step {
        id,
        runs: runs.collect(),
        release,
        stage_us: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
