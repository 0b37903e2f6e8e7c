//! What the API tells about the cluster: its state, its workers, its stages, and whether it can answer.
//!
//! Plain data: another part of the coordinator writes reports, this one shows the latest. The JSON keys are kept once
//! published.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::ApiState;
use super::error::ApiError;

/// How far the cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    Starting,
    /// The workers that are here have too little memory for the model.
    WaitingForWorkers,
    /// Workers are loading their layers.
    Loading,
    Ready,
    /// It worked, and then something was lost.
    Down,
}

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    pub state: ClusterState,
    /// Why it is not ready.
    pub why: Option<String>,
    /// Name of the model.
    pub model: String,
    pub workers: Vec<NodeReport>,
    /// In the order in which a token passes them.
    pub stages: Vec<StageReport>,
    /// Answers being computed.
    pub running: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub id: String,
    pub name: String,
    pub address: String,
    pub state: String,
    /// Instruction set of its kernels.
    pub isa: String,
    pub threads: u32,
    /// Memory that it lends.
    pub memory_budget_bytes: u64,
    pub memory_total_bytes: u64,
    /// Measured speed of reading weights.
    pub weight_bytes_per_second: f64,
    /// Measured multiply-adds.
    pub macs_per_second: f64,
    /// First layer, and the one behind the last.
    pub layers: Option<[u32; 2]>,
    /// Weights that it holds.
    pub bytes: u64,
    pub version: String,
}

/// One stage of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Id of the worker.
    pub worker: String,
    /// First layer, and the one behind the last.
    pub layers: [u32; 2],
    pub bytes: u64,
}

/// Where the latest report is found.
#[derive(Debug, Clone)]
pub struct ClusterView {
    pub status: watch::Receiver<StatusReport>,
}

impl ClusterView {
    fn report(&self) -> StatusReport {
        self.status.borrow().clone()
    }
}

#[derive(Serialize)]
pub(super) struct Nodes {
    nodes: Vec<NodeReport>,
}

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
}

pub(super) async fn status(State(state): State<Arc<ApiState>>) -> Json<StatusReport> {
    Json(state.cluster.report())
}

pub(super) async fn nodes(State(state): State<Arc<ApiState>>) -> Json<Nodes> {
    Json(Nodes {
        nodes: state.cluster.report().workers,
    })
}

/// 200 when answers are to be had. Load balancers and scripts poll this, without a key: where keys are asked for it does not
/// say why, which may name machines.
pub(super) async fn health(State(state): State<Arc<ApiState>>) -> Result<Json<Health>, ApiError> {
    let report = state.cluster.report();
    match report.state {
        ClusterState::Ready => Ok(Json(Health { status: "ok" })),
        ClusterState::Starting | ClusterState::Loading => {
            Err(ApiError::unavailable("Loading model"))
        }
        ClusterState::WaitingForWorkers | ClusterState::Down => Err(ApiError::unavailable(
            report
                .why
                .filter(|_| state.gate.doorkeeper().is_none())
                .unwrap_or_else(|| "no worker can compute".to_owned()),
        )),
    }
}
