//! The one owner of the cluster: `next_event` waits, `apply` is synchronous.
//!
//! The states follow each other in a circle: workers gather, a plan is made, stages load, the ring opens, answers are
//! computed; and when anything of the ring is lost, what is left gathers again.

mod report;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_link::dial::peer_to_wire;
use potluck_link::invite::is_address;
use potluck_link::mdns::{Discovery, Found};
use potluck_link::state_dir::Stamp;
use potluck_link::{PeerId, Role, Target};
use potluck_proto::{
    Fence, InstanceId, NodeId, PlanGen, SeqId, Step, StepId, frames, limits, wire,
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::load::{self, LoadEvent, StageLoad};
use super::member::{Described, MemberEvent, Watch};
use super::membership::{Hint, Membership, Verdict};
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

/// How often the list of members is looked at: a node that was removed is cut off within this time.
const LIST_INTERVAL: Duration = Duration::from_millis(250);

/// Addresses of one worker that others are told.
const MAX_ADDRESSES: usize = 8;

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
            () = settled => Event::Tick,
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
            Event::Tick => self.tick(),
            Event::Stop => {}
        }
    }

    fn plan_gen(&self) -> u64 {
        self.fence.borrow().plan_gen.0
    }

    // Workers.

    /// Anybody can advertise, so only what leads to a node of the list is followed.
    fn found(&mut self, found: Found) {
        let node = found.advert.node;
        if !self.is_listed(node) {
            // It may have joined a moment ago.
            self.read_list();
        }
        if self.is_listed(node) {
            let addresses = found.addresses.iter().map(ToString::to_string).collect();
            let (node, instance) = (self.worker(node), found.advert.instance);
            self.follow(Hint::found(node, instance, addresses));
        }
    }

    fn is_listed(&self, node: NodeId) -> bool {
        let members = self.members.borrow();
        members.node_ids.iter().any(|id| id.as_ref() == node.0)
    }

    fn follow(&mut self, hint: Hint) {
        if self.membership.begin_watch(&hint) {
            let watch = Watch {
                link: self.config.cluster.link.clone(),
                fence: self.fence.subscribe(),
                members: self.members.subscribe(),
                events: self.member_events.sender.clone(),
            };
            self.watchers.spawn(watch.run(hint));
        }
    }

    /// Where workers were when the coordinator ran last: they are found even where mDNS does not work.
    fn follow_remembered(&mut self) {
        self.read_list();
        match self.config.cluster.members().list() {
            Ok(members) => {
                for member in members.iter().filter(|member| !member.addresses.is_empty()) {
                    self.follow(Hint::remembered(
                        self.worker(member.node),
                        &member.addresses,
                    ));
                }
            }
            Err(error) => tracing::error!(%error, "the list of members cannot be read"),
        }
    }

    /// Takes a changed list of members into force: who is not on it any more is cut off.
    fn read_list(&mut self) {
        let members = self.config.cluster.members();
        let stamp = members.stamp();
        let first = self.members.borrow().coordinator_addresses.is_empty();
        if stamp == self.list_stamp && !first {
            return;
        }
        let listed = match members.list() {
            Ok(listed) => listed,
            // The list in force stays: a damaged file neither lets in nor cuts off anybody.
            Err(error) => return tracing::error!(%error, "the list of members cannot be read"),
        };
        self.list_stamp = stamp;
        let listed = listed.iter().map(|member| member.node);
        let admitted: HashSet<_> = listed.chain(self.config.local_workers.clone()).collect();
        self.config.cluster.link.admit(admitted.iter().copied());
        let mut node_ids: Vec<_> = admitted.iter().map(|node| node.0.to_vec().into()).collect();
        node_ids.sort_unstable();
        self.members.send_replace(wire::Members {
            node_ids,
            coordinator_addresses: self.own_addresses.clone(),
        });
        let here: Vec<_> = self.membership.iter().map(|member| member.node).collect();
        for node in here.iter().filter(|node| !admitted.contains(node)) {
            let struck = self.membership.strike(node);
            self.gone(struck, "it was removed from the cluster");
        }
    }

    fn worker(&self, node: NodeId) -> PeerId {
        PeerId {
            cluster: self.config.cluster.id(),
            role: Role::Worker,
            node,
        }
    }

    fn apply_member(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Answered(described, verdict) => {
                // Without a watcher to hear it the worker was lost at once, which is told next.
                let _ = verdict.send(self.answered(*described));
            }
            MemberEvent::Known { hint } => self.membership.known(&hint),
            MemberEvent::Refused { hint, error } => {
                tracing::info!(hint = hint.key, %error, "a worker cannot be used");
                self.membership.refused(hint);
            }
            MemberEvent::Lost {
                node,
                instance,
                why,
            } => self.lost(node, instance, &why),
            MemberEvent::Progress => self.progress_at = Instant::now(),
            MemberEvent::Fault { fence, fault } if fence == *self.fence.borrow() => {
                self.for_engine
                    .push_back(RingEvent::Fault(run_fault(fault)));
            }
            MemberEvent::LinkDown {
                fence,
                node,
                message,
            } if fence == *self.fence.borrow() => {
                let (from, to) = (self.name_of(&node), self.name_after(&node));
                self.ring_lost(format!(
                    "the connection from worker {from} to {to} broke ({message})"
                ));
            }
            MemberEvent::Fault { .. } | MemberEvent::LinkDown { .. } => {}
        }
    }

    fn answered(&mut self, described: Described) -> Verdict {
        let (name, address) = (described.info.name.clone(), described.address.to_string());
        let (node, addresses) = (described.node, addresses_of(&described));
        let verdict = self.membership.join(described);
        match &verdict {
            Verdict::Known => return verdict,
            Verdict::Copy { other } => {
                tracing::warn!(
                    name,
                    address,
                    other,
                    "a second worker with the same identity is refused"
                );
                return verdict;
            }
            Verdict::Joined => {}
        }
        if let Err(error) = self.config.cluster.members().remember(node, &addresses) {
            tracing::warn!(%error, "where a worker is could not be remembered");
        }
        tracing::info!(name, address, "worker found");
        self.tell(ClusterEvent::WorkerFound { name, address });
        if matches!(self.phase, Phase::Gathering) {
            self.plan_at = Some(Instant::now() + SETTLE);
        }
        verdict
    }

    fn lost(&mut self, node: NodeId, instance: InstanceId, why: &str) {
        // A worker that was struck off and has come back is another's business.
        let is_it = |member: &&Described| member.instance == instance;
        if self.membership.get(&node).filter(is_it).is_some() {
            let member = self.membership.leave(&node);
            self.gone(member, why);
        }
    }

    fn gone(&mut self, member: Option<Described>, why: &str) {
        let Some(member) = member else {
            return;
        };
        let (name, node) = (member.info.name, member.node);
        tracing::warn!(name, why, "worker lost");
        self.tell(ClusterEvent::WorkerLost {
            name: name.clone(),
            why: why.to_owned(),
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

    /// The worker whose layers come after those of `node` in the plan, in words.
    fn name_after(&self, node: &NodeId) -> String {
        let stages = self.phase.plan().map(|plan| plan.stages.as_slice());
        let mut stages = stages.unwrap_or_default().iter();
        stages.find(|stage| stage.worker == *node);
        match stages.next() {
            Some(stage) => format!("worker {}", stage.name),
            None => "the next stage".to_owned(),
        }
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
                next: plan.stages.get(index + 1).map(|next| self.peer_of(next)),
                previous: match index.checked_sub(1).map(|before| &plan.stages[before]) {
                    Some(before) => self.peer_of(before),
                    None => self.own_peer(),
                },
                fence,
                client: member.client.clone(),
                sources: self.sources_for(&stage.worker),
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

    /// A stage as the stage before it is told of it: where others than the coordinator reach it.
    fn peer_of(&self, stage: &StagePlan) -> wire::Peer {
        let member = self.membership.get(&stage.worker);
        let addresses = member.map(addresses_of).unwrap_or_default();
        peer_to_wire(self.worker(stage.worker), &addresses)
    }

    /// Who may have weights for a worker: all others, and this coordinator, which has all of them.
    fn sources_for(&self, node: &NodeId) -> Vec<wire::Peer> {
        let others = self.membership.iter().filter(|member| member.node != *node);
        let others =
            others.map(|member| peer_to_wire(self.worker(member.node), &addresses_of(member)));
        let others = others.take(limits::MAX_SOURCES - 1);
        others.chain([self.own_peer()]).collect()
    }

    /// This coordinator, as workers are told of it.
    fn own_peer(&self) -> wire::Peer {
        peer_to_wire(self.config.cluster.link.id(), &self.own_addresses)
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
                let all_ready = *n_ready == plan.stages.len();
                self.tell(self.loaded(name, ready));
                if all_ready {
                    self.open_ring();
                }
                return;
            }
            Some(Stage::WeightsDamaged(damaged)) => self.damaged(name, damaged),
            None => return,
        };
        self.tell(event);
    }

    fn loaded(&self, name: String, ready: wire::Ready) -> ClusterEvent {
        let mut from = BTreeMap::new();
        for sent in ready.sent.iter().take(limits::MAX_SOURCES) {
            let n_bytes: &mut u64 = from.entry(self.name_of_source(&sent.node_id)).or_default();
            *n_bytes = n_bytes.saturating_add(sent.n_bytes);
        }
        ClusterEvent::Loaded {
            name,
            fetched_bytes: ready.fetched_bytes,
            cached_bytes: ready.cached_bytes,
            load_ms: ready.load_ms,
            from,
        }
    }

    fn damaged(&self, worker: String, damaged: wire::WeightsDamaged) -> ClusterEvent {
        let source = self.name_of_source(&damaged.node_id);
        let tensor = match self.model.has_tensor(&damaged.tensor) {
            true => damaged.tensor,
            false => "of an unknown name".to_owned(),
        };
        tracing::warn!(
            worker,
            source,
            tensor,
            "wrong bytes of a tensor were sent and thrown away"
        );
        ClusterEvent::WeightsDamaged {
            worker,
            source,
            tensor,
        }
    }

    /// A node that weights came from, for people.
    fn name_of_source(&self, node: &[u8]) -> String {
        match NodeId::try_from(node) {
            Ok(node) if node == self.config.cluster.link.id().node => "coordinator".to_owned(),
            Ok(node) => self.name_of(&node),
            Err(_) => "an unknown node".to_owned(),
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
            target: Target::node(self.worker(stage.worker), [&stage.address]),
        };
        self.plan_tasks.spawn(ring::run(
            self.config.cluster.link.clone(),
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

/// Where other machines reach a worker: where this one did, and where the worker says that it is. What means something on this
/// machine only comes last.
fn addresses_of(member: &Described) -> Vec<String> {
    let mut addresses = member.info.addresses.clone();
    let seen = member.address.to_string();
    addresses.retain(|address| *address != seen && is_address(address));
    let is_own = match member.address.ip() {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    match is_own {
        true => addresses.push(seen),
        false => addresses.insert(0, seen),
    }
    addresses.truncate(MAX_ADDRESSES);
    addresses
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
