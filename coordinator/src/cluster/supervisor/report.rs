//! What the supervisor tells of the cluster: a report for the API, made anew after every event.

use super::{Phase, Supervisor, WAITING};
use crate::cluster::member::Described;
use crate::http::{ClusterState, NodeReport, StageReport, StatusReport};
use crate::planner::StagePlan;

impl Supervisor {
    /// Publishes the state as it is now, if it has changed.
    pub(super) fn report(&self) {
        let report = self.status_report();
        self.links.status.send_if_modified(|held| {
            let changed = *held != report;
            *held = report;
            changed
        });
    }

    fn status_report(&self) -> StatusReport {
        let state = match (&self.phase, &self.why) {
            (Phase::Ready { .. }, _) if self.announce.is_none() => ClusterState::Ready,
            (Phase::Gathering, None) => ClusterState::Starting,
            (Phase::Gathering, Some(why)) if why.starts_with(WAITING) => {
                ClusterState::WaitingForWorkers
            }
            (Phase::Gathering, Some(_)) => ClusterState::Down,
            _ => ClusterState::Loading,
        };
        let engine = self.links.engine.borrow();
        StatusReport {
            state,
            why: self.why.clone(),
            model: self.model.name().to_owned(),
            workers: self
                .membership
                .iter()
                .map(|member| self.node_report(member))
                .collect(),
            stages: self.stage_reports(),
            running: engine.running as u32,
            waiting: engine.waiting as u32,
        }
    }

    fn stage_reports(&self) -> Vec<StageReport> {
        let stages = self
            .phase
            .plan()
            .map(|plan| plan.stages.as_slice())
            .unwrap_or_default();
        let report = |stage: &StagePlan| StageReport {
            worker: stage.name.clone(),
            layers: [stage.layers.start, stage.layers.end],
            bytes: stage.weights_bytes,
        };
        stages.iter().map(report).collect()
    }

    fn node_report(&self, member: &Described) -> NodeReport {
        let info = &member.info;
        let speed = info.speed.unwrap_or_default();
        let stages = self
            .phase
            .plan()
            .map(|plan| plan.stages.as_slice())
            .unwrap_or_default();
        let stage = stages.iter().find(|stage| stage.worker == member.node);
        let state = match (&self.phase, stage) {
            (_, None) => "idle",
            (Phase::Ready { .. }, Some(_)) => "ready",
            (_, Some(_)) => "loading",
        };
        NodeReport {
            id: member.node.to_string(),
            name: info.name.clone(),
            address: member.address.to_string(),
            state: state.to_owned(),
            isa: info.isa.clone(),
            threads: info.n_threads,
            memory_budget_bytes: info.memory_budget_bytes,
            memory_total_bytes: info.memory_total_bytes,
            weight_bytes_per_second: speed.weight_bytes_per_second,
            macs_per_second: speed.macs_per_second,
            layers: stage.map(|stage| [stage.layers.start, stage.layers.end]),
            bytes: stage.map_or(0, |stage| stage.weights_bytes),
            version: info.version.clone(),
        }
    }
}
