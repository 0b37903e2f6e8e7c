//! A server on a free port, with everything behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use potluck_coordinator::answer::Answerer;
use potluck_coordinator::engine::{self, EngineHandle, EngineStatus, RingEvent};
use potluck_coordinator::http::{
    self, AllowedHosts, ApiState, ClusterState, ClusterView, Gate, Metrics, ServeError,
    StatusReport, Transport,
};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::model;
use crate::ring::{self, RingControl};

/// Nothing in these tests takes longer, except by being broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Setup {
    pub context_tokens: u32,
    pub max_sequences: u32,
    /// `None` for a model that does not chat.
    pub template: Option<&'static str>,
    /// Steps that the ring may take before it stands still.
    pub permits: usize,
    pub up: bool,
}

pub const USUAL: Setup = Setup {
    context_tokens: 256,
    max_sequences: 4,
    template: Some(model::TEMPLATE),
    permits: Semaphore::MAX_PERMITS / 2,
    up: true,
};

/// Room for an answer that outlasts every test.
pub const ENDLESS: Setup = Setup {
    context_tokens: 1 << 20,
    ..USUAL
};

pub struct Server {
    pub address: SocketAddr,
    pub engine: EngineHandle,
    pub answerer: Answerer,
    pub ring: RingControl,
    pub report: watch::Sender<StatusReport>,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<Result<(), ServeError>>,
}

/// How the server is opened.
pub struct Opened {
    pub gate: Gate,
    pub hosts: AllowedHosts,
    pub transport: Transport,
}

/// To everyone on this machine.
pub fn open() -> Opened {
    Opened {
        gate: Gate::Open,
        hosts: AllowedHosts::and_local([]),
        transport: Transport::Plain,
    }
}

pub async fn start(setup: Setup) -> Server {
    start_opened(setup, open()).await
}

pub async fn start_opened(setup: Setup, opened: Opened) -> Server {
    let (events_tx, events) = mpsc::channel(16);
    let (steps_tx, steps) = mpsc::channel(16);
    let ring = ring::start(steps, events_tx, Arc::new(Semaphore::new(setup.permits)));
    let engine = engine::spawn(events, steps_tx);
    if setup.up {
        let limits = ring::limits(setup.context_tokens, setup.max_sequences);
        ring.events.send(RingEvent::Up(limits)).await.unwrap();
        until(&engine, |status| status.not_ready.is_none()).await;
    }
    let (report, status) = watch::channel(report(ClusterState::Ready));
    let answerer = Answerer::new(
        model::served(setup.context_tokens, setup.template),
        engine.clone(),
    );
    let state = ApiState {
        answerer: answerer.clone(),
        cluster: ClusterView { status },
        gate: opened.gate,
        hosts: opened.hosts,
        metrics: Metrics::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let task = tokio::spawn(http::serve(listener, state, opened.transport, shutdown));
    Server {
        address,
        engine,
        answerer,
        ring,
        report,
        stop,
        task,
    }
}

pub fn report(state: ClusterState) -> StatusReport {
    StatusReport {
        state,
        why: None,
        model: model::NAME.to_owned(),
        workers: vec![],
        stages: vec![],
        running: 0,
        waiting: 0,
    }
}

/// Waits until the engine is as wanted.
pub async fn until(engine: &EngineHandle, wanted: impl FnMut(&EngineStatus) -> bool) {
    let mut status = engine.watch_status();
    tokio::time::timeout(PATIENCE, status.wait_for(wanted))
        .await
        .expect("in time")
        .unwrap();
}

/// Waits until neither engine nor ring holds anything.
pub async fn until_idle(server: &Server) {
    until(&server.engine, |status| {
        status.running == 0 && status.waiting == 0
    })
    .await;
    let mut held = server.ring.held.clone();
    tokio::time::timeout(PATIENCE, held.wait_for(|held| *held == 0))
        .await
        .expect("in time")
        .unwrap();
}
