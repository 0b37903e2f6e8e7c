//! The task with its channels, on a paused clock.

use std::sync::Arc;

use potluck_proto::{PROTOCOL, RunResult, Sampling, StepResult};

use super::*;
use crate::engine::{FaultKind, FinishReason, GenerateRequest, RingLimits, RunFault};

const LIMITS: RingLimits = RingLimits {
    n_stages: 2,
    context_tokens: 64,
    max_sequences: 2,
    max_step_tokens: 16,
    n_vocab: 1000,
    protocol: PROTOCOL,
};

/// The ring's ends of the two channels.
struct Ring {
    events: mpsc::Sender<RingEvent>,
    steps: mpsc::Receiver<Step>,
}

fn start(n_steps: usize) -> (EngineHandle, Ring) {
    let (events, events_rx) = mpsc::channel(8);
    let (steps_tx, steps) = mpsc::channel(n_steps);
    (spawn(events_rx, steps_tx), Ring { events, steps })
}

fn request(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: vec![1, 2, 3],
        max_tokens,
        sampling: Sampling::greedy(),
        end_tokens: Arc::new([]),
    }
}

impl Ring {
    async fn up(&self) {
        self.tell(RingEvent::Up(LIMITS)).await;
    }

    async fn tell(&self, event: RingEvent) {
        self.events.send(event).await.unwrap();
    }

    async fn step(&mut self) -> Step {
        self.steps.recv().await.unwrap()
    }

    /// Answers every run with the position of its last token.
    async fn answer(&self, step: &Step) {
        let runs = step.runs.iter().map(|run| {
            let kv_len = run.pos + run.tokens.len() as u32;
            RunResult {
                seq: run.seq,
                kv_len,
                token: run.sampling.as_ref().map(|_| kv_len - 1),
                logprobs: None,
            }
        });
        let result = StepResult {
            id: step.id,
            runs: runs.collect(),
            stage_us: vec![],
        };
        self.tell(RingEvent::Result(result)).await;
    }

    /// Answers steps, a millisecond each, until the engine has no more; returns what was released.
    async fn serve(mut self) -> Vec<SeqId> {
        let mut released = Vec::new();
        while let Some(step) = self.steps.recv().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            released.extend(&step.release);
            self.answer(&step).await;
        }
        released
    }
}

async fn until(handle: &EngineHandle, what: impl FnMut(&EngineStatus) -> bool) {
    handle.watch_status().wait_for(what).await.unwrap();
}

async fn up(n_steps: usize) -> (EngineHandle, Ring) {
    let (handle, ring) = start(n_steps);
    ring.up().await;
    until(&handle, |status| status.not_ready.is_none()).await;
    (handle, ring)
}

#[tokio::test(start_paused = true)]
async fn answers_stream_to_their_clients() {
    let (handle, ring) = up(3).await;
    tokio::spawn(ring.serve());
    let mut generations = Vec::new();
    for _ in 0..5 {
        generations.push(handle.generate(request(4)).await.unwrap());
    }
    for generation in &mut generations {
        let mut tokens = Vec::new();
        while let Some(event) = generation.next().await {
            match event {
                GenerateEvent::Token { id, index, .. } => tokens.push((index, id)),
                GenerateEvent::Finished(finished) => {
                    assert_eq!(finished.reason, FinishReason::Length);
                    assert_eq!((finished.n_prompt, finished.n_generated), (3, 4));
                    assert!(finished.prompt_ms >= 1.0 && finished.generate_ms >= 3.0);
                }
                GenerateEvent::Failed(error) => panic!("{error}"),
                GenerateEvent::Queued { .. } | GenerateEvent::Progress { .. } => {}
            }
        }
        assert_eq!(tokens, [(0, 2), (1, 3), (2, 4), (3, 5)]);
    }
    until(&handle, |status| status.steps_in_flight == 0).await;
    let status = handle.status();
    assert_eq!((status.running, status.waiting), (0, 0));
    assert_eq!(
        (status.n_prompt_tokens, status.n_generated_tokens),
        (15, 20)
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_are_the_reply() {
    let (handle, ring) = start(3);
    let early = handle.generate(request(4)).await.unwrap_err();
    assert!(matches!(early, GenerateError::NotReady { .. }), "{early}");
    ring.up().await;
    until(&handle, |status| status.not_ready.is_none()).await;
    let empty = GenerateRequest {
        prompt: vec![],
        ..request(4)
    };
    let error = handle.generate(empty).await.unwrap_err();
    assert_eq!(error, GenerateError::PromptEmpty);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_generation_is_cancelled_and_released() {
    let (handle, mut ring) = up(3).await;
    let mut generation = handle.generate(request(50)).await.unwrap();
    let seq = generation.id();
    let first = ring.step().await;
    ring.answer(&first).await;
    let progress = GenerateEvent::Progress { done: 3, total: 3 };
    assert_eq!(generation.next().await, Some(progress));
    let second = ring.step().await;
    drop(generation);
    until(&handle, |status| status.running == 0).await;
    ring.answer(&second).await;
    let third = ring.step().await;
    assert_eq!((third.runs.len(), &third.release[..]), (0, &[seq][..]));
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_for_the_reply_leaves_nothing_behind() {
    let (handle, ring) = up(3).await;
    let served = tokio::spawn(ring.serve());
    for _ in 0..10 {
        let mut generate = Box::pin(handle.generate(request(50)));
        // Once is enough to hand the request over, and too little to take the reply.
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(generate.as_mut().poll(cx).is_ready())
        });
        assert!(!polled.await);
    }
    // Ten requests were taken before this one.
    drop(handle.generate(request(1)).await.unwrap());
    let idle = |s: &EngineStatus| s.running + s.waiting + s.steps_in_flight == 0;
    until(&handle, idle).await;
    served.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lost_run_without_a_reason_fails_when_its_time_is_up() {
    let (handle, mut ring) = up(3).await;
    let mut generation = handle.generate(request(4)).await.unwrap();
    let step = ring.step().await;
    let without_runs = StepResult {
        id: step.id,
        runs: vec![],
        stage_us: vec![],
    };
    ring.tell(RingEvent::Result(without_runs)).await;
    let waited = Instant::now();
    let event = generation.next().await;
    assert!(waited.elapsed() >= Duration::from_secs(1));
    let Some(GenerateEvent::Failed(GenerateError::Fault { kind, .. })) = event else {
        panic!("{event:?}");
    };
    assert_eq!(kind, FaultKind::Unspecified);
    assert_eq!(generation.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_fault_reaches_the_client() {
    let (handle, mut ring) = up(3).await;
    let mut generation = handle.generate(request(4)).await.unwrap();
    let step = ring.step().await;
    let fault = RunFault {
        seq: generation.id(),
        step: step.id,
        kind: FaultKind::NotFinite,
        kv_len: 0,
        message: "layer 3".into(),
    };
    ring.tell(RingEvent::Fault(fault)).await;
    let event = generation.next().await;
    let Some(GenerateEvent::Failed(GenerateError::Fault { kind, .. })) = event else {
        panic!("{event:?}");
    };
    assert_eq!(kind, FaultKind::NotFinite);
}

#[tokio::test(start_paused = true)]
async fn between_two_plans_no_old_step_is_left() {
    let (handle, mut ring) = up(3).await;
    let mut first = handle.generate(request(4)).await.unwrap();
    let mut second = handle.generate(request(4)).await.unwrap();
    let why = "simulated".to_string();
    ring.tell(RingEvent::Down { why }).await;
    until(&handle, |status| status.not_ready.is_some()).await;
    while ring.steps.try_recv().is_ok() {}
    for generation in [&mut first, &mut second] {
        let event = generation.next().await;
        let lost = Some(GenerateEvent::Failed(GenerateError::WorkerLost {
            why: "simulated".into(),
        }));
        assert_eq!(event, lost);
    }
    ring.up().await;
    until(&handle, |status| status.not_ready.is_none()).await;
    let third = handle.generate(request(4)).await.unwrap();
    let step = ring.step().await;
    assert_eq!((step.id.0, step.runs[0].seq), (0, third.id()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_ring_holds_up_nobody_else() {
    // Room for one step where three are under way.
    let (handle, mut ring) = up(1).await;
    let long = GenerateRequest {
        prompt: vec![1; 60],
        ..request(1)
    };
    let mut generation = handle.generate(long).await.unwrap();
    until(&handle, |status| status.steps_in_flight == 3).await;
    let waiting = handle.generate(request(1)).await.unwrap();
    drop(waiting);
    for id in 0..4 {
        let step = ring.step().await;
        assert_eq!(step.id.0, id);
        ring.answer(&step).await;
    }
    let mut last = None;
    while let Some(event) = generation.next().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(GenerateEvent::Finished(_))), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_ring_is_the_end_of_every_answer() {
    let (handle, ring) = up(3).await;
    let mut generation = handle.generate(request(4)).await.unwrap();
    drop(ring);
    let event = generation.next().await;
    let lost = matches!(
        event,
        Some(GenerateEvent::Failed(GenerateError::WorkerLost { .. }))
    );
    assert!(lost, "{event:?}");
    let error = handle.generate(request(4)).await.unwrap_err();
    assert!(matches!(error, GenerateError::NotReady { .. }), "{error}");
}
