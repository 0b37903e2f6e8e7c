//! The core against a ring that delays results, repeats them, loses runs and goes down, while requests come and go.
//!
//! The ring of the simulation checks every step as a strict worker would, and its "model" is a pure function of all
//! tokens it holds for a sequence: an answer that equals the expected one has seen exactly its own log, in order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use potluck_proto::{
    LogitBias, Logprobs, PROTOCOL, Run, RunResult, Sampling, SeqId, Step, StepId, StepResult,
    TokenLogprob, limits,
};
use proptest::prelude::*;

use super::{
    FaultKind, FinishReason, GenerateError, GenerateEvent, GenerateRequest, PREFILL_CHUNK,
    RingEvent, RingLimits, RunFault,
    core::{Action, Core, Event, MAX_WAITING},
};

const N_VOCAB: u32 = 40;
const END_TOKEN: u32 = 0;

#[derive(Debug, Clone)]
enum Op {
    Submit {
        n_prompt: usize,
        max_tokens: u32,
        seed: u64,
    },
    /// Cancels one of the requests so far, ended or not.
    Cancel(usize),
    /// Brings home the oldest steps.
    Land(usize),
    /// Repeats the last result.
    Repeat,
    /// Loses a run of the next step.
    Fault(Report),
    /// Lets time pass.
    Wait(u64),
    Down,
    Up(RingLimits),
}

/// When the reason of a lost run is told.
#[derive(Debug, Clone, Copy)]
enum Report {
    BeforeResult,
    AfterResult,
    Never,
}

/// A token and what is told with it.
type Drawn = (u32, Option<Logprobs>);

/// The model: any change of any token changes what follows, and how likely it is said to be.
fn draw(held: &[u32], sampling: &Sampling) -> Drawn {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let hash = held.iter().fold(sampling.seed, |h, &t| mix(h, t.into()));
    let drawn = mix(hash, sampling.index.into());
    let mut token = (drawn >> 7) as u32 % N_VOCAB;
    if sampling.logit_bias.iter().any(|entry| entry.token == token) {
        token = (token + 1) % N_VOCAB;
    }
    let logprob = -((drawn >> 40) as f32);
    let logprobs = sampling.top_logprobs.map(|n_top| Logprobs {
        drawn: logprob,
        top: vec![TokenLogprob { token, logprob }; n_top as usize],
    });
    (token, logprobs)
}

/// What a request of this seed asks for: some want log-probabilities, some answers must not end by themselves.
fn sampling(seed: u64) -> Sampling {
    let no_end = LogitBias {
        token: END_TOKEN,
        bias: f32::NEG_INFINITY,
    };
    Sampling {
        seed,
        top_logprobs: seed.is_multiple_of(3).then_some((seed % 4) as u32),
        logit_bias: std::iter::repeat_n(no_end, usize::from(seed.is_multiple_of(5))).collect(),
        ..Sampling::greedy()
    }
}

/// The whole answer as one machine would give it.
fn expected(request: &GenerateRequest, ring: &RingLimits) -> (Vec<Drawn>, FinishReason) {
    let mut answer = Vec::new();
    let mut log = request.prompt.clone();
    let n_prompt = log.len();
    while log.len() - n_prompt < request.max_tokens as usize
        && log.len() < ring.context_tokens as usize
    {
        let index = (log.len() - n_prompt) as u32;
        let drawn = draw(
            &log,
            &Sampling {
                index,
                ..request.sampling.clone()
            },
        );
        if drawn.0 == END_TOKEN {
            return (answer, FinishReason::Stop);
        }
        log.push(drawn.0);
        answer.push(drawn);
    }
    (answer, FinishReason::Length)
}

/// A ring that computes a step when it is sent and delivers the result when told.
#[derive(Debug)]
struct FakeRing {
    limits: RingLimits,
    next_id: u64,
    held: BTreeMap<SeqId, Vec<u32>>,
    under_way: VecDeque<(StepResult, BTreeSet<SeqId>, Vec<RunFault>)>,
    fault_next: Option<Report>,
}

impl FakeRing {
    fn new(limits: RingLimits) -> Self {
        FakeRing {
            limits,
            next_id: 0,
            held: BTreeMap::new(),
            under_way: VecDeque::new(),
            fault_next: None,
        }
    }

    /// Takes a step; returns the faults that are told at once.
    fn take(&mut self, step: Step, lossy: &mut BTreeSet<SeqId>) -> Vec<RunFault> {
        self.check(&step);
        self.next_id += 1;
        let seqs: BTreeSet<_> = step.runs.iter().map(|run| run.seq).collect();
        let (mut runs, mut at_once, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for run in &step.runs {
            match self.compute(run) {
                Ok(result) => runs.push(result),
                Err((report, kind)) => {
                    lossy.insert(run.seq);
                    let fault = self.fault(step.id, run.seq, kind);
                    match report {
                        Report::BeforeResult => at_once.push(fault),
                        Report::AfterResult => later.push(fault),
                        Report::Never => {}
                    }
                }
            }
        }
        let room = self.limits.max_sequences as usize;
        assert!(self.held.len() <= room, "too many sequences");
        for seq in &step.release {
            assert!(self.held.remove(seq).is_some(), "released but not held");
        }
        let result = StepResult {
            id: step.id,
            runs,
            stage_us: vec![],
        };
        self.under_way.push_back((result, seqs, later));
        at_once
    }

    fn check(&self, step: &Step) {
        assert_eq!(step.id, StepId(self.next_id), "steps are numbered");
        let max_in_flight = self.limits.n_stages as usize + 1;
        assert!(self.under_way.len() < max_in_flight, "too many steps");
        assert!(!step.runs.is_empty() || !step.release.is_empty(), "idle");
        assert!(step.n_tokens() <= self.limits.max_step_tokens as usize);
        assert!(step.runs.len() <= limits::MAX_STEP_RUNS);
        let seqs: BTreeSet<_> = step.runs.iter().map(|run| run.seq).collect();
        assert_eq!(seqs.len(), step.runs.len(), "a sequence twice in a step");
        let n_prefill: usize = step.runs.iter().map(|run| run.tokens.len()).sum();
        let chunk = match self.limits.n_stages {
            1 => self.limits.max_step_tokens,
            _ => PREFILL_CHUNK + self.limits.max_sequences,
        };
        assert!(n_prefill <= chunk as usize, "a chunk too long");
        for seq in &step.release {
            let returned = self
                .under_way
                .iter()
                .all(|(_, seqs, _)| !seqs.contains(seq));
            assert!(returned && !seqs.contains(seq), "released too early");
        }
    }

    fn compute(&mut self, run: &Run) -> Result<RunResult, (Report, FaultKind)> {
        let end = run.pos as usize + run.tokens.len();
        assert!(!run.tokens.is_empty() && !run.rollback);
        assert!(end <= self.limits.context_tokens as usize, "context");
        let held = match run.pos {
            0 => {
                let before = self.held.insert(run.seq, Vec::new());
                assert!(before.is_none(), "opened twice");
                self.held.get_mut(&run.seq).unwrap()
            }
            _ => self.held.get_mut(&run.seq).expect("not open"),
        };
        if let Some(report) = self.fault_next.take() {
            return Err((report, FaultKind::KvFull));
        }
        if run.pos as usize != held.len() {
            assert!(run.pos as usize > held.len(), "sent twice");
            return Err((Report::AfterResult, FaultKind::Gap));
        }
        held.extend(&run.tokens);
        let drawn = run.sampling.as_ref().map(|s| draw(held, s));
        let (token, logprobs) = drawn.unzip();
        Ok(RunResult {
            seq: run.seq,
            kv_len: end as u32,
            token,
            logprobs: logprobs.flatten(),
        })
    }

    fn fault(&self, step: StepId, seq: SeqId, kind: FaultKind) -> RunFault {
        RunFault {
            seq,
            step,
            kind,
            kv_len: self.held.get(&seq).map_or(0, |held| held.len() as u32),
            message: "simulated".into(),
        }
    }
}

/// What a client has seen.
#[derive(Debug)]
struct Client {
    want: (Vec<Drawn>, FinishReason),
    tokens: Vec<Drawn>,
    n_prompt_done: u32,
    last: Option<GenerateEvent>,
    cancelled: bool,
}

impl Client {
    fn hear(&mut self, event: GenerateEvent) {
        assert!(self.last.is_none(), "{event:?} after {:?}", self.last);
        assert!(!self.cancelled, "{event:?} after it was cancelled");
        match event {
            GenerateEvent::Queued { .. } => {
                assert_eq!(self.n_prompt_done, 0, "queued while running");
            }
            GenerateEvent::Progress { done, total } => {
                assert!(done > self.n_prompt_done && done <= total);
                assert!(self.tokens.is_empty(), "progress after a token");
                self.n_prompt_done = done;
            }
            GenerateEvent::Token {
                id,
                index,
                logprobs,
            } => {
                assert_eq!(index as usize, self.tokens.len(), "index");
                self.tokens.push((id, logprobs));
            }
            last => self.last = Some(last),
        }
    }
}

struct World {
    core: Core,
    now: Duration,
    ring: Option<FakeRing>,
    clients: BTreeMap<SeqId, Client>,
    /// Sequences of which the ring lost a run.
    lossy: BTreeSet<SeqId>,
    /// Whether a ring went down or was replaced.
    shaken: bool,
    last_result: Option<StepResult>,
}

impl World {
    fn new(limits: RingLimits) -> Self {
        let mut world = World {
            core: Core::new(),
            now: Duration::ZERO,
            ring: None,
            clients: BTreeMap::new(),
            lossy: BTreeSet::new(),
            shaken: false,
            last_result: None,
        };
        world.up(limits);
        world
    }

    fn up(&mut self, limits: RingLimits) {
        self.ring = Some(FakeRing::new(limits));
        self.last_result = None;
        self.feed(Event::Ring(RingEvent::Up(limits)));
    }

    fn feed(&mut self, event: Event) {
        self.now += Duration::from_micros(10);
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.core.step(self.now, event) {
                match action {
                    Action::Emit(seq, event) => self.clients.get_mut(&seq).unwrap().hear(event),
                    Action::Send(step) => {
                        let ring = self.ring.as_mut().expect("a step while the ring is down");
                        let faults = ring.take(step, &mut self.lossy);
                        events.extend(faults.into_iter().map(|f| Event::Ring(RingEvent::Fault(f))));
                    }
                }
            }
        }
        assert!(self.core.status().waiting <= MAX_WAITING);
    }

    fn submit(&mut self, n_prompt: usize, max_tokens: u32, seed: u64) {
        let request = GenerateRequest {
            prompt: (0..n_prompt as u64)
                .map(|i| ((seed ^ i).wrapping_mul(0x9e37_79b9) >> 9) as u32 % N_VOCAB)
                .collect(),
            max_tokens,
            sampling: sampling(seed),
            end_tokens: Arc::new([END_TOKEN]),
        };
        let want = self
            .ring
            .as_ref()
            .map(|ring| expected(&request, &ring.limits));
        let seq = SeqId(self.clients.len() as u64);
        let client = Client {
            want: want.unwrap_or((vec![], FinishReason::Stop)),
            tokens: vec![],
            n_prompt_done: 0,
            last: None,
            cancelled: false,
        };
        self.clients.insert(seq, client);
        self.feed(Event::Submit(seq, request));
    }

    fn cancel(&mut self, which: usize) {
        let Some((&seq, _)) = self.clients.iter().nth(which % self.clients.len().max(1)) else {
            return;
        };
        self.clients.get_mut(&seq).unwrap().cancelled = true;
        self.feed(Event::Cancel(seq));
    }

    fn land(&mut self) -> bool {
        let landed = self
            .ring
            .as_mut()
            .and_then(|ring| ring.under_way.pop_front());
        let Some((result, _, faults)) = landed else {
            return false;
        };
        self.last_result = Some(result.clone());
        self.feed(Event::Ring(RingEvent::Result(result)));
        for fault in faults {
            self.feed(Event::Ring(RingEvent::Fault(fault)));
        }
        true
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        if self.core.deadline().is_some_and(|at| at <= self.now) {
            self.feed(Event::Tick);
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Submit {
                n_prompt,
                max_tokens,
                seed,
            } => self.submit(n_prompt, max_tokens, seed),
            Op::Cancel(which) => self.cancel(which),
            Op::Land(n) => {
                for _ in 0..n {
                    self.land();
                }
            }
            Op::Repeat => {
                if let Some(result) = self.last_result.clone() {
                    self.feed(Event::Ring(RingEvent::Result(result)));
                }
            }
            Op::Fault(report) => {
                if let Some(ring) = &mut self.ring {
                    ring.fault_next = Some(report);
                }
            }
            Op::Wait(ms) => self.wait(ms),
            Op::Down => {
                self.shaken = true;
                self.ring = None;
                let why = "simulated".to_string();
                self.feed(Event::Ring(RingEvent::Down { why }));
            }
            Op::Up(limits) => {
                self.shaken = true;
                self.up(limits);
            }
        }
    }

    /// Lets everything come to its end, then checks that the ring is empty and every client knows how it ended.
    fn finish(mut self) {
        while self.land() || self.core.deadline().is_some() {
            self.wait(10_000);
        }
        let status = self.core.status();
        assert_eq!((status.running, status.waiting), (0, 0), "starved");
        assert_eq!(status.steps_in_flight, 0);
        assert_eq!(self.core.deadline(), None);
        if let Some(ring) = &self.ring {
            assert!(ring.held.is_empty(), "never released: {:?}", ring.held);
        }
        for (seq, client) in &self.clients {
            self.check_client(*seq, client);
        }
    }

    fn check_client(&self, seq: SeqId, client: &Client) {
        let (want, want_reason) = &client.want;
        match &client.last {
            Some(GenerateEvent::Finished(finished)) => {
                assert_eq!(&client.tokens, want, "{seq:?}");
                assert_eq!(&finished.reason, want_reason);
                assert_eq!(finished.n_generated as usize, want.len());
            }
            Some(GenerateEvent::Failed(error)) => {
                assert!(want.starts_with(&client.tokens), "{seq:?}");
                match error {
                    GenerateError::WorkerLost { .. } | GenerateError::NotReady { .. } => {
                        assert!(self.shaken, "{error}");
                    }
                    GenerateError::Fault { .. } => {
                        assert!(self.lossy.contains(&seq), "{error}");
                    }
                    _ => assert!(client.tokens.is_empty(), "{error}"),
                }
            }
            None => {
                assert!(client.cancelled, "{seq:?} never ended");
                assert!(want.starts_with(&client.tokens), "{seq:?}");
            }
            Some(other) => panic!("{other:?} is no end"),
        }
    }
}

fn ring_limits() -> impl Strategy<Value = RingLimits> {
    let max_step_tokens = prop_oneof![1u32..8, Just(64u32), Just(512u32)];
    (1u32..5, 8u32..400, 1u32..6, max_step_tokens).prop_map(
        |(n_stages, context_tokens, max_sequences, max_step_tokens)| RingLimits {
            n_stages,
            context_tokens,
            max_sequences,
            max_step_tokens,
            n_vocab: N_VOCAB,
            protocol: PROTOCOL,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        Just(Report::BeforeResult),
        Just(Report::AfterResult),
        Just(Report::Never),
    ]
}

fn submit() -> impl Strategy<Value = Op> {
    let n_prompt = prop_oneof![4 => 0usize..20, 1 => 0usize..420];
    (n_prompt, 0u32..60, any::<u64>()).prop_map(|(n_prompt, max_tokens, seed)| Op::Submit {
        n_prompt,
        max_tokens,
        seed,
    })
}

fn calm_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => submit(),
        1 => (0usize..64).prop_map(Op::Cancel),
        6 => (1usize..8).prop_map(Op::Land),
        1 => Just(Op::Repeat),
        1 => (0u64..400).prop_map(Op::Wait),
    ]
}

fn rough_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => calm_op(),
        3 => report().prop_map(Op::Fault),
        1 => Just(Op::Down),
        1 => ring_limits().prop_map(Op::Up),
    ]
}

fn simulate(limits: RingLimits, ops: Vec<Op>) {
    let mut world = World::new(limits);
    for op in ops {
        world.run(op);
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_request_ends_as_if_it_were_alone(
        limits in ring_limits(),
        ops in prop::collection::vec(calm_op(), 0..150),
    ) {
        simulate(limits, ops);
    }

    #[test]
    fn faults_and_lost_rings_cut_answers_off_but_never_falsify_them(
        limits in ring_limits(),
        ops in prop::collection::vec(rough_op(), 0..150),
    ) {
        simulate(limits, ops);
    }
}
