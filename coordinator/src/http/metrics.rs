//! `GET /metrics`: what has happened, in OpenMetrics text, which Prometheus reads.
//!
//! Answers are counted where their log lines are written (`request_log`); what the engine and the cluster know already is taken
//! from them when somebody asks. Times are in seconds. Names are kept once published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::ApiState;
use super::cluster_view::{ClusterState, StatusReport};
use super::error::ApiError;
use crate::engine::EngineStatus;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted as requests end. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    duration: Histogram,
    first_token: Histogram,
    per_token: Histogram,
}

/// How a request for an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    /// `done`, `refused`, `failed` in the middle, or `disconnected` by the client.
    pub outcome: &'static str,
    /// Of HTTP.
    pub status: u16,
}

/// The times of one request.
pub(super) struct Times {
    pub whole: Duration,
    /// Until the first token, the wait for a place included; `None` if there was none.
    pub first_token: Option<Duration>,
    /// Between two tokens of the answer; `None` if there were not two.
    pub per_token: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerState {
    state: String,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Family::default(),
            duration: Histogram::new(exponential_buckets(0.25, 2.0, 12)),
            first_token: Histogram::new(exponential_buckets(0.05, 2.0, 12)),
            per_token: Histogram::new(exponential_buckets(0.005, 2.0, 10)),
        }
    }
}

impl Metrics {
    pub(super) fn ended(&self, outcome: &Outcome, times: &Times) {
        self.requests.get_or_create(outcome).inc();
        self.duration.observe(times.whole.as_secs_f64());
        for (histogram, time) in [
            (&self.first_token, times.first_token),
            (&self.per_token, times.per_token),
        ] {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
    }

    /// Everything that is told, as of now.
    fn registry(&self, engine: &EngineStatus, cluster: &StatusReport) -> Registry {
        let mut registry = Registry::with_prefix("potluck");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "This program", build);
        self.register_requests(&mut registry);
        register_engine(&mut registry, engine);
        register_cluster(&mut registry, cluster);
        registry
    }

    fn register_requests(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("requests", "Requests for answers that have ended", requests);
        let seconds = [
            (
                "request_duration",
                "From a request to the end of its answer",
                &self.duration,
            ),
            (
                "time_to_first_token",
                "From a request to the first token of its answer",
                &self.first_token,
            ),
            (
                "time_per_output_token",
                "Between two tokens of an answer, as its mean",
                &self.per_token,
            ),
        ];
        for (name, help, histogram) in seconds {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}

fn register_engine(registry: &mut Registry, engine: &EngineStatus) {
    let counters = [
        (
            "prompt_tokens",
            "Tokens of prompts that were computed",
            engine.n_prompt_tokens,
        ),
        (
            "generated_tokens",
            "Tokens of answers",
            engine.n_generated_tokens,
        ),
    ];
    for (name, help, n) in counters {
        registry.register(name, help, ConstCounter::new(n));
    }
    let gauges = [
        (
            "requests_running",
            "Answers that are being computed",
            engine.running,
        ),
        (
            "requests_waiting",
            "Requests that wait for a place",
            engine.waiting,
        ),
        (
            "steps_in_flight",
            "Steps on their way round the ring",
            engine.steps_in_flight,
        ),
    ];
    for (name, help, n) in gauges {
        registry.register(name, help, gauge(n));
    }
}

fn register_cluster(registry: &mut Registry, cluster: &StatusReport) {
    let ready = gauge(usize::from(cluster.state == ClusterState::Ready));
    registry.register("ready", "Whether answers are to be had", ready);
    let stages = gauge(cluster.stages.len());
    registry.register("stages", "Stages of the ring", stages);
    let mut by_state: BTreeMap<&str, i64> = BTreeMap::new();
    for worker in &cluster.workers {
        *by_state.entry(&worker.state).or_default() += 1;
    }
    let workers: Family<WorkerState, Gauge> = Family::default();
    for (state, n) in by_state {
        let state = state.to_owned();
        workers.get_or_create(&WorkerState { state }).set(n);
    }
    registry.register("workers", "Workers by what they are doing", workers);
}

fn gauge(n: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(super) async fn metrics(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let cluster = state.cluster.status.borrow().clone();
    let registry = state
        .metrics
        .registry(&state.answerer.engine_status(), &cluster);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|_| ApiError::internal("the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
