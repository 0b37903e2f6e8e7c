//! A plan from its making to its end: layers are placed, stages load them, the ring is opened.

use std::sync::Arc;

use potluck_link::Target;
use potluck_link::dial::peer_to_wire;
use potluck_proto::wire;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::workers::addresses_of;
use super::{Phase, RETRY_INTERVAL, Supervisor};
use crate::cluster::ClusterEvent;
use crate::cluster::load::{self, LoadEvent, StageLoad};
use crate::cluster::ring;
use crate::planner::{Plan, StagePlan};

impl Supervisor {
    pub(super) fn begin_plan(&mut self) {
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

    pub(super) fn apply_load(&mut self, event: LoadEvent) {
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

    pub(super) fn begin_load(&mut self, plan: Plan) {
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
    pub(super) fn peer_of(&self, stage: &StagePlan) -> wire::Peer {
        let member = self.membership.get(&stage.worker);
        let addresses = member.map(addresses_of).unwrap_or_default();
        peer_to_wire(self.worker(stage.worker), &addresses)
    }

    /// This coordinator, as workers are told of it.
    pub(super) fn own_peer(&self) -> wire::Peer {
        peer_to_wire(self.config.cluster.link.id(), &self.own_addresses)
    }

    pub(super) fn progress(&mut self, stage: usize, progress: wire::LoadProgress) {
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

    pub(super) fn open_ring(&mut self) {
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
    pub(super) fn gather_again(&mut self, why: String) {
        self.end_plan();
        self.down(why);
        self.plan_at = Some(Instant::now() + RETRY_INTERVAL);
    }

    pub(super) fn end_plan(&mut self) {
        self.plan_tasks = JoinSet::new();
        self.phase = Phase::Gathering;
        self.up_when_engine_is_down = false;
        self.announce = None;
        // From here on everything of the plan is out of date.
        self.fence.send_modify(|fence| fence.plan_gen.0 += 1);
    }
}
