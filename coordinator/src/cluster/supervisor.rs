//! The one owner of the cluster: `next_event` waits, `apply` is synchronous.
//!
//! The states follow each other in a circle: workers gather, a plan is made, stages load, the ring opens, answers are
//! computed; and when anything of the ring is lost, what is left gathers again.

mod report;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_proto::{Fence, NodeId, PlanGen, SeqId, Step, StepId, frames, wire};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::discovery::{Discovery, Found};
use super::load::{self, LoadEvent, StageLoad};
use super::member::{self, Described, MemberEvent};
use super::membership::Membership;
use super::ring::{self, RingNews};
use super::{ClusterConfig, ClusterEvent};
use crate::engine::{EngineStatus, FaultKind, RingEvent, RingLimits, RunFault};
use crate::http::StatusReport;
use crate::planner::{Plan, StagePlan};
use crate::store::Model;

/// After the last change among the workers this long must pass before a plan is made, so that workers that start
/// together are planned together.
const SETTLE: Duration = Duration::from_millis(700);

/// How often addresses named by the user are tried again, and a plan that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// With steps under way and no layer computed anywhere for this long, the ring is taken for dead. The slowest machine computes
/// a layer of a prompt's chunk in a fraction of this.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Events between the tasks and the supervisor.
const QUEUED_EVENTS: usize = 256;

/// The supervisor's connections to the rest of the coordinator.
pub(super) struct Links {
    pub engine: watch::Receiver<EngineStatus>,
    pub ring_events: mpsc::Sender<RingEvent>,
    pub steps: mpsc::Receiver<Step>,
    pub status: watch::Sender<StatusReport>,
    pub events: broadcast::Sender<ClusterEvent>,
    pub discovery: Option<Discovery>,
}

/// Everything that can wake the supervisor.
enum Event {
    Found(Found),
    Member(MemberEvent),
    Load(u64, LoadEvent),
    Ring(u64, RingNews),
    Step(Step),
    EngineStatus,
    Tick,
    Stop,
}

/// What the cluster is doing.
enum Phase {
    /// Waiting for workers, or for the settling time.
    Gathering,
    /// A plan is being made.
    Planning,
    /// Stages load; `ready` of them are.
    Loading { plan: Plan, n_ready: usize },
    /// The ring is being opened.
    Opening { plan: Plan },
    /// Answers are computed.
    Ready {
        plan: Plan,
        frames: mpsc::Sender<wire::StepFrame>,
    },
}

impl Phase {
    fn plan(&self) -> Option<&Plan> {
        match self {
            Phase::Gathering | Phase::Planning => None,
            Phase::Loading { plan, .. } | Phase::Opening { plan } | Phase::Ready { plan, .. } => {
                Some(plan)
            }
        }
    }
}

pub(super) struct Supervisor {
    config: ClusterConfig,
    model: Arc<Model>,
    weights_source: SocketAddr,
    links: Links,
    membership: Membership,
    phase: Phase,
    fence: watch::Sender<Fence>,
    /// Tasks of the plan being made or in force; they end with it.
    plan_tasks: JoinSet<()>,
    /// Watchers of workers; they end with the supervisor.
    watchers: JoinSet<()>,
    /// When a plan may be made.
    plan_at: Option<Instant>,
    /// Why answers cannot be computed.
    why: Option<String>,
    /// The engine must say that it is not ready before it may be told that the ring is up.
    up_when_engine_is_down: bool,
    /// When a step last left or came back, or a worker had computed a layer.
    progress_at: Instant,
    /// Time round the ring, to be told once the engine takes requests.
    announce: Option<u64>,
    /// News for the engine that did not fit its queue.
    for_engine: VecDeque<RingEvent>,
    member_events: Channel<MemberEvent>,
    load_events: Channel<(u64, LoadEvent)>,
    ring_news: Channel<(u64, RingNews)>,
}

struct Channel<T> {
    sender: mpsc::Sender<T>,
    receiver: mpsc::Receiver<T>,
}

impl<T> Channel<T> {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUED_EVENTS);
        Channel { sender, receiver }
    }
}

impl Supervisor {
    pub fn new(
        config: ClusterConfig,
        model: Arc<Model>,
        weights_source: SocketAddr,
        links: Links,
    ) -> Self {
        let fence = Fence {
            cluster: config.identity.cluster,
            epoch: config.identity.epoch,
            plan_gen: PlanGen(0),
        };
        Supervisor {
            config,
            model,
            weights_source,
            links,
            membership: Membership::default(),
            phase: Phase::Gathering,
            fence: watch::Sender::new(fence),
            plan_tasks: JoinSet::new(),
            watchers: JoinSet::new(),
            plan_at: None,
            why: None,
            up_when_engine_is_down: false,
            announce: None,
            progress_at: Instant::now(),
            for_engine: VecDeque::new(),
            member_events: Channel::new(),
            load_events: Channel::new(),
            ring_news: Channel::new(),
        }
    }

    /// Runs until `stop` closes.
    pub async fn run(mut self, mut stop: mpsc::Receiver<()>) {
        let mut ticks = tokio::time::interval(RETRY_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.report();
            match self.next_event(&mut ticks, &mut stop).await {
                Event::Stop => return,
                event => self.apply(event),
            }
            self.tell_engine().await;
        }
    }

    async fn next_event(
        &mut self,
        ticks: &mut tokio::time::Interval,
        stop: &mut mpsc::Receiver<()>,
    ) -> Event {
        let settled = async {
            match self.plan_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let found = async {
            match &mut self.links.discovery {
                Some(discovery) => discovery.next().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            _ = stop.recv() => Event::Stop,
            Some((plan_gen, news)) = self.ring_news.receiver.recv() => Event::Ring(plan_gen, news),
            Some(step) = self.links.steps.recv() => Event::Step(step),
            Some(event) = self.member_events.receiver.recv() => Event::Member(event),
            Some((plan_gen, event)) = self.load_events.receiver.recv() => Event::Load(plan_gen, event),
            Some(found) = found => Event::Found(found),
            Ok(()) = self.links.engine.changed() => Event::EngineStatus,
            () = settled => Event::Tick,
            _ = ticks.tick() => Event::Tick,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Found(found) => self.watch(found.address),
            Event::Member(event) => self.apply_member(event),
            Event::Load(plan_gen, event) if plan_gen == self.plan_gen() => self.apply_load(event),
            Event::Ring(plan_gen, news) if plan_gen == self.plan_gen() => self.apply_ring(news),
            // News of a plan that is over.
            Event::Load(..) | Event::Ring(..) => {}
            Event::Step(step) => self.send(step),
            Event::EngineStatus => {
                self.raise_when_engine_is_down();
                self.announce_when_engine_is_up();
            }
            Event::Tick => self.tick(),
            Event::Stop => {}
        }
    }

    fn plan_gen(&self) -> u64 {
        self.fence.borrow().plan_gen.0
    }

    // Workers.

    fn watch(&mut self, address: SocketAddr) {
        if self.membership.begin_watch(address) {
            let (fence, events) = (self.fence.subscribe(), self.member_events.sender.clone());
            self.watchers.spawn(member::watch(address, fence, events));
        }
    }

    fn apply_member(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Joined(described) => self.joined(*described),
            MemberEvent::Refused { address, error } => {
                tracing::info!(%address, %error, "a worker cannot be used");
                self.membership.refused(address);
            }
            MemberEvent::Lost { node, address, why } => self.lost(node, address, why),
            MemberEvent::Progress => self.progress_at = Instant::now(),
            MemberEvent::Fault { fence, fault } if fence == *self.fence.borrow() => {
                self.for_engine
                    .push_back(RingEvent::Fault(run_fault(fault)));
            }
            MemberEvent::LinkDown {
                fence,
                node,
                next,
                message,
            } if fence == *self.fence.borrow() => {
                let (from, to) = (self.name_of(&node), self.name_at(&next));
                self.ring_lost(format!(
                    "the connection from worker {from} to {to} broke ({message})"
                ));
            }
            MemberEvent::Fault { .. } | MemberEvent::LinkDown { .. } => {}
        }
    }

    fn joined(&mut self, described: Described) {
        let (name, address) = (described.info.name.clone(), described.address.to_string());
        if !self.membership.join(described) {
            tracing::warn!(
                name,
                address,
                "a second worker with the same identity is ignored"
            );
            return;
        }
        tracing::info!(name, address, "worker found");
        self.tell(ClusterEvent::WorkerFound { name, address });
        if matches!(self.phase, Phase::Gathering) {
            self.plan_at = Some(Instant::now() + SETTLE);
        }
    }

    fn lost(&mut self, node: NodeId, address: SocketAddr, why: String) {
        let Some(member) = self.membership.leave(&node, address) else {
            return;
        };
        let name = member.info.name;
        tracing::warn!(name, why, "worker lost");
        self.tell(ClusterEvent::WorkerLost {
            name: name.clone(),
            why: why.clone(),
        });
        let in_use = self
            .phase
            .plan()
            .is_some_and(|plan| plan.stages.iter().any(|stage| stage.worker == node));
        if in_use {
            self.ring_lost(format!("worker {name} was lost: {why}"));
        }
    }

    fn name_of(&self, node: &NodeId) -> String {
        self.membership
            .get(node)
            .map_or_else(|| node.to_string(), |member| member.info.name.clone())
    }

    /// The worker at an address of the plan, in words.
    fn name_at(&self, address: &str) -> String {
        let stages = self.phase.plan().map(|plan| plan.stages.as_slice());
        let mut stages = stages.unwrap_or_default().iter();
        match stages.find(|stage| stage.address == address) {
            Some(stage) => format!("worker {}", stage.name),
            None => address.to_owned(),
        }
    }

    // Plans.

    fn tick(&mut self) {
        self.reap();
        self.check_progress();
        let mut addresses = self.config.join.clone();
        addresses.extend(self.membership.to_ask_again());
        for address in addresses {
            self.watch(address);
        }
        if !matches!(self.phase, Phase::Gathering) {
            return;
        }
        let needed = self.config.workers.needed();
        let n_here = self.membership.len();
        if n_here < needed {
            // What was lost says more than what is missing now.
            if self.why.as_ref().is_none_or(|why| why.starts_with(WAITING)) {
                let why = format!("{WAITING} {needed} worker(s), {n_here} here");
                self.tell_users(why.clone());
                self.why = Some(why);
            }
            return;
        }
        if self.plan_at.is_some_and(|at| at <= Instant::now()) {
            self.begin_plan();
        }
    }

    /// Takes away tasks that have ended. One that broke down would leave its plan waiting for ever.
    fn reap(&mut self) {
        while self.watchers.try_join_next().is_some() {}
        while let Some(ended) = self.plan_tasks.try_join_next() {
            if ended.is_err_and(|err| err.is_panic()) {
                self.gather_again("making the plan broke down; the log says more".into());
                return;
            }
        }
    }

    /// A step that does not come back while no worker computes anything is lost, and with it the ring.
    fn check_progress(&mut self) {
        let waits = matches!(self.phase, Phase::Ready { .. })
            && self.links.engine.borrow().steps_in_flight > 0;
        if waits && self.progress_at.elapsed() > STALL_LIMIT {
            let seconds = STALL_LIMIT.as_secs();
            self.ring_lost(format!(
                "a step did not come back, and no worker has computed anything for {seconds} s"
            ));
        }
    }

    fn begin_plan(&mut self) {
        self.plan_at = None;
        self.fence.send_modify(|fence| fence.plan_gen.0 += 1);
        self.phase = Phase::Planning;
        let workers = self.membership.iter().cloned().collect();
        let (config, model) = (self.config.clone(), Arc::clone(&self.model));
        let events = self.load_events.sender.clone();
        self.plan_tasks.spawn(load::make_plan(
            config,
            model,
            workers,
            self.plan_gen(),
            events,
        ));
    }

    fn apply_load(&mut self, event: LoadEvent) {
        match event {
            LoadEvent::Planned { plan, infos } => {
                infos
                    .into_iter()
                    .for_each(|(node, info)| self.membership.update(&node, info));
                self.begin_load(plan);
            }
            LoadEvent::NoPlan { why } => self.gather_again(why),
            LoadEvent::Failed { stage, why } => {
                let name = self
                    .phase
                    .plan()
                    .map(|plan| plan.stages[stage].name.clone())
                    .unwrap_or_default();
                self.gather_again(format!("worker {name} cannot load its layers: {why}"));
            }
            LoadEvent::Progress { stage, progress } => self.progress(stage, progress),
        }
    }

    fn begin_load(&mut self, plan: Plan) {
        for line in &plan.explanation {
            tracing::info!("{line}");
        }
        self.tell(ClusterEvent::Planned(plan.clone()));
        let fence = *self.fence.borrow();
        for (index, stage) in plan.stages.iter().enumerate() {
            let Some(member) = self.membership.get(&stage.worker) else {
                return self.gather_again(format!(
                    "worker {} was lost while the plan was made",
                    stage.name
                ));
            };
            let load = StageLoad {
                index,
                stage: stage.clone(),
                next: plan.stages.get(index + 1).map(|next| next.address.clone()),
                fence,
                client: member.client.clone(),
                sources: vec![self.weights_source.to_string()],
            };
            let (config, model) = (self.config.clone(), Arc::clone(&self.model));
            self.plan_tasks.spawn(load::load_stage(
                config,
                model,
                load,
                self.load_events.sender.clone(),
            ));
        }
        self.tell_users("the workers are loading their layers".into());
        self.phase = Phase::Loading { plan, n_ready: 0 };
    }

    fn progress(&mut self, stage: usize, progress: wire::LoadProgress) {
        use wire::load_progress::Stage;
        let Phase::Loading { plan, n_ready } = &mut self.phase else {
            return;
        };
        let name = plan.stages[stage].name.clone();
        let event = match progress.stage {
            Some(Stage::Fetching(wire::Fetching {
                done_bytes,
                total_bytes,
            })) => ClusterEvent::Fetching {
                name,
                done_bytes,
                total_bytes,
            },
            Some(Stage::Loading(wire::Loading {
                done_bytes,
                total_bytes,
            })) => ClusterEvent::Loading {
                name,
                done_bytes,
                total_bytes,
            },
            Some(Stage::Ready(ready)) => {
                *n_ready += 1;
                let wire::Ready {
                    fetched_bytes,
                    cached_bytes,
                    load_ms,
                    ..
                } = ready;
                ClusterEvent::Loaded {
                    name,
                    fetched_bytes,
                    cached_bytes,
                    load_ms,
                }
            }
            None => return,
        };
        let all_ready = *n_ready == plan.stages.len();
        self.tell(event);
        if all_ready {
            self.open_ring();
        }
    }

    fn open_ring(&mut self) {
        let Some(plan) = self.phase.plan().cloned() else {
            return;
        };
        let (Some(first), Some(last)) = (plan.stages.first(), plan.stages.last()) else {
            return;
        };
        let end = |stage: &StagePlan| ring::End {
            name: stage.name.clone(),
            address: stage.address.clone(),
        };
        self.plan_tasks.spawn(ring::run(
            *self.fence.borrow(),
            end(first),
            end(last),
            self.ring_news.sender.clone(),
        ));
        self.phase = Phase::Opening { plan };
    }

    /// The plan came to nothing: wait for a change among the workers, or a while, and try again.
    fn gather_again(&mut self, why: String) {
        self.end_plan();
        self.down(why);
        self.plan_at = Some(Instant::now() + RETRY_INTERVAL);
    }

    fn end_plan(&mut self) {
        self.plan_tasks = JoinSet::new();
        self.phase = Phase::Gathering;
        self.up_when_engine_is_down = false;
        self.announce = None;
        // From here on everything of the plan is out of date.
        self.fence.send_modify(|fence| fence.plan_gen.0 += 1);
    }

    // The ring.

    fn apply_ring(&mut self, news: RingNews) {
        match news {
            RingNews::Open { frames, ring_us } => self.opened(frames, ring_us),
            RingNews::Result(result) => {
                self.progress_at = Instant::now();
                self.for_engine.push_back(RingEvent::Result(result));
            }
            RingNews::Broken { why } => self.ring_lost(why),
        }
    }

    fn opened(&mut self, frames: mpsc::Sender<wire::StepFrame>, ring_us: u64) {
        let Some(plan) = self.phase.plan().cloned() else {
            return;
        };
        self.phase = Phase::Ready { plan, frames };
        self.why = None;
        self.up_when_engine_is_down = true;
        self.announce = Some(ring_us);
        self.raise_when_engine_is_down();
    }

    /// The cluster is ready when the engine takes requests, not before.
    fn announce_when_engine_is_up(&mut self) {
        let is_up = self.links.engine.borrow().not_ready.is_none();
        if let Some(ring_us) = self.announce.take_if(|_| is_up) {
            self.tell(ClusterEvent::Ready { ring_us });
        }
    }

    /// The engine sends nothing while it is not ready. Only then is its queue emptied and the new plan made known, so
    /// that no step of an older plan is taken for one of this.
    fn raise_when_engine_is_down(&mut self) {
        let is_down = self.links.engine.borrow_and_update().not_ready.is_some();
        let Some(plan) = self
            .phase
            .plan()
            .filter(|_| self.up_when_engine_is_down && is_down)
        else {
            return;
        };
        let n_stages = plan.stages.len() as u32;
        self.up_when_engine_is_down = false;
        while self.links.steps.try_recv().is_ok() {}
        self.for_engine.push_back(RingEvent::Up(RingLimits {
            n_stages,
            context_tokens: self.config.context_tokens,
            max_sequences: self.config.max_sequences,
            max_step_tokens: self.config.max_step_tokens,
            n_vocab: self.model.shape().n_vocab,
        }));
    }

    /// A step goes out, unless there is no ring: then the engine has been told, or will be.
    fn send(&mut self, step: Step) {
        let Phase::Ready { frames: sender, .. } = &self.phase else {
            return;
        };
        if self.up_when_engine_is_down {
            // A step of the plan before: the engine has not heard of its end yet.
            return;
        }
        self.progress_at = Instant::now();
        let fence = *self.fence.borrow();
        let full = frames(fence, &step, Bytes::new())
            .into_iter()
            .any(|frame| sender.try_send(frame).is_err());
        if full {
            self.ring_lost("the first stage does not take steps any more".into());
        }
    }

    /// What was being computed is lost; what is left gathers again.
    fn ring_lost(&mut self, why: String) {
        self.end_plan();
        self.down(why);
        self.plan_at = Some(Instant::now() + SETTLE);
    }

    // Telling others.

    /// What those are told who ask for an answer now.
    fn tell_users(&mut self, why: String) {
        self.for_engine.push_back(RingEvent::Down { why });
    }

    /// Says why answers cannot be computed, once: a plan that fails is tried again and again.
    fn down(&mut self, why: String) {
        self.tell_users(why.clone());
        if self.why.as_ref() != Some(&why) {
            tracing::warn!(why, "answers cannot be computed");
            self.tell(ClusterEvent::Down { why: why.clone() });
            self.why = Some(why);
        }
    }

    async fn tell_engine(&mut self) {
        while let Some(event) = self.for_engine.pop_front() {
            // The engine takes its events at once; if it is gone the process is ending.
            if self.links.ring_events.send(event).await.is_err() {
                return;
            }
        }
    }

    fn tell(&self, event: ClusterEvent) {
        // Without a listener there is nobody to tell.
        let _ = self.links.events.send(event);
    }
}

/// How the reason begins when only workers are missing.
const WAITING: &str = "waiting for";

fn run_fault(fault: wire::RunFault) -> RunFault {
    let kind = match fault.fault() {
        wire::Fault::Unspecified => FaultKind::Unspecified,
        wire::Fault::Gap => FaultKind::Gap,
        wire::Fault::KvFull => FaultKind::KvFull,
        wire::Fault::NotFinite => FaultKind::NotFinite,
        wire::Fault::Invalid => FaultKind::Invalid,
    };
    RunFault {
        seq: SeqId(fault.seq),
        step: StepId(fault.step_id),
        kind,
        kv_len: fault.kv_len,
        message: fault.message,
    }
}
