//! The one owner of the cluster: `next_event` waits, `apply` is synchronous. Workers come and go in `workers.rs`, plans are made and
//! end in `plans.rs`; here are the states, and the ring.
//!
//! The states follow each other in a circle: workers gather, a plan is made, stages load, the ring opens, answers are
//! computed; and when anything of the ring is lost, what is left gathers again.

mod plans;
mod report;
mod weights;
mod workers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_link::mdns::{Discovery, Found};
use potluck_link::state_dir::Stamp;
use potluck_proto::{Fence, NodeId, PROTOCOL, PlanGen, Step, frames, wire};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::load::LoadEvent;
use super::member::MemberEvent;
use super::membership::{Hint, Membership};
use super::ring::RingNews;
use super::{ClusterConfig, ClusterEvent};
use crate::engine::{EngineStatus, RingEvent, RingLimits};
use crate::http::StatusReport;
use crate::planner::Plan;
use crate::store::Model;

/// After the last change among the workers this long must pass before a plan is made, so that workers that start
/// together are planned together.
const SETTLE: Duration = Duration::from_millis(700);

/// How often addresses named by the user are tried again, and a plan that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// With steps under way and no layer computed anywhere for this long, the ring is taken for dead. The slowest machine computes
/// a layer of a prompt's chunk in a fraction of this.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// How often the list of members is looked at: a node that was removed is cut off within this time.
const LIST_INTERVAL: Duration = Duration::from_millis(250);

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
    /// Where workers say that they are.
    pub hints: mpsc::Receiver<Hint>,
    /// Nodes that have just joined.
    pub joined: mpsc::Receiver<NodeId>,
}

/// Everything that can wake the supervisor.
enum Event {
    Found(Found),
    Hint(Hint),
    /// The list of members may have changed.
    List,
    Member(MemberEvent),
    Load(u64, LoadEvent),
    Ring(u64, RingNews),
    Step(Step),
    EngineStatus,
    /// The workers have settled, or a failed plan may be tried again.
    Settled,
    Tick,
    Stop,
}

/// What wakes the supervisor by itself.
struct Clocks {
    ticks: tokio::time::Interval,
    list: tokio::time::Interval,
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
    /// `host:port` where this coordinator listens, for the workers.
    own_addresses: Vec<String>,
    links: Links,
    membership: Membership,
    /// Who belongs to the cluster, as the workers are told.
    members: watch::Sender<wire::Members>,
    /// The version of the list that was read last.
    list_stamp: Option<Stamp>,
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
        own_addresses: Vec<String>,
        links: Links,
    ) -> Self {
        let fence = Fence {
            cluster: config.cluster.id(),
            epoch: config.epoch,
            plan_gen: PlanGen(0),
        };
        Supervisor {
            config,
            model,
            own_addresses,
            links,
            membership: Membership::default(),
            members: watch::Sender::default(),
            list_stamp: None,
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
        let mut clocks = Clocks {
            ticks: tokio::time::interval(RETRY_INTERVAL),
            list: tokio::time::interval(LIST_INTERVAL),
        };
        clocks
            .ticks
            .set_missed_tick_behavior(MissedTickBehavior::Delay);
        clocks
            .list
            .set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow_remembered();
        loop {
            self.report();
            match self.next_event(&mut clocks, &mut stop).await {
                Event::Stop => return,
                event => self.apply(event),
            }
            self.tell_engine().await;
        }
    }

    async fn next_event(&mut self, clocks: &mut Clocks, stop: &mut mpsc::Receiver<()>) -> Event {
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
            Some(hint) = self.links.hints.recv() => Event::Hint(hint),
            Some(_) = self.links.joined.recv() => Event::List,
            _ = clocks.list.tick() => Event::List,
            Some(found) = found => Event::Found(found),
            Ok(()) = self.links.engine.changed() => Event::EngineStatus,
            () = settled => Event::Settled,
            _ = clocks.ticks.tick() => Event::Tick,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Found(found) => self.found(found),
            Event::Hint(hint) => self.follow(hint),
            Event::List => self.read_list(),
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
            Event::Settled => self.settled(),
            Event::Tick => self.tick(),
            Event::Stop => {}
        }
    }

    fn plan_gen(&self) -> u64 {
        self.fence.borrow().plan_gen.0
    }

    // Plans.

    fn tick(&mut self) {
        self.reap();
        self.check_progress();
        let named = self
            .config
            .join
            .iter()
            .map(|address| Hint::address(address));
        let hints: Vec<_> = named.chain(self.membership.to_ask_again()).collect();
        hints.into_iter().for_each(|hint| self.follow(hint));
        if matches!(self.phase, Phase::Gathering) && !self.has_enough_workers() {
            self.say_what_is_missing();
        }
    }

    /// Plans with the workers that are here. If they are too few the next one to come sets the time anew: a time that has
    /// passed must not stay, as it would wake the supervisor for ever.
    fn settled(&mut self) {
        self.plan_at = None;
        match self.phase {
            Phase::Gathering if self.has_enough_workers() => self.begin_plan(),
            Phase::Gathering => self.say_what_is_missing(),
            _ => {}
        }
    }

    fn has_enough_workers(&self) -> bool {
        self.membership.len() >= self.config.workers.needed()
    }

    fn say_what_is_missing(&mut self) {
        // What was lost says more than what is missing now.
        if self.why.as_ref().is_none_or(|why| why.starts_with(WAITING)) {
            let (needed, n_here) = (self.config.workers.needed(), self.membership.len());
            let why = format!("{WAITING} {needed} worker(s), {n_here} here");
            self.tell_users(why.clone());
            self.why = Some(why);
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
        let members = plan.stages.iter();
        let members = members.filter_map(|stage| self.membership.get(&stage.worker));
        let protocol = members.map(|member| member.info.protocol).min();
        self.up_when_engine_is_down = false;
        while self.links.steps.try_recv().is_ok() {}
        self.for_engine.push_back(RingEvent::Up(RingLimits {
            n_stages,
            context_tokens: self.config.context_tokens,
            max_sequences: self.config.max_sequences,
            max_step_tokens: self.config.max_step_tokens,
            n_vocab: self.model.shape().n_vocab,
            protocol: protocol.unwrap_or(PROTOCOL),
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
