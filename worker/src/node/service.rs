//! The gRPC services of a worker, and the little state they share.
//!
//! The state here is of the control plane: which plan is current and who controls it. Tokens pass it only as a plan that
//! is looked up once a stream.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use potluck_link::words::shown;
use potluck_link::{Interfaces, Link, Peer, PeerId, Role};
use potluck_proto::wire::stage_server::Stage as StageRpc;
use potluck_proto::wire::worker_server::Worker as WorkerRpc;
use potluck_proto::{Fence, FrameAssembler, NodeId, PROTOCOL, StepResult, WireError, wire};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::describe::Machine;
use super::home::Home;
use super::{control, loading};
use crate::compute::{Command, Compute};
use crate::weights::WeightCache;

/// Events that may wait for the coordinator to read them.
const QUEUED_EVENTS: usize = 256;

/// The services, cheap to clone.
#[derive(Clone)]
pub(super) struct Service {
    shared: Arc<Shared>,
}

/// What the services share.
pub(super) struct Shared {
    pub link: Link,
    pub home: Home,
    pub machine: Machine,
    pub place: Place,
    pub cache: WeightCache,
    pub compute: Compute,
    state: Mutex<State>,
}

/// Where this worker listens, and which of its interfaces lead to others.
pub(super) struct Place {
    pub listening: SocketAddr,
    pub interfaces: Interfaces,
}

impl Place {
    /// `host:port` where others reach this worker now.
    pub fn addresses(&self) -> Vec<String> {
        let reach = self.interfaces.reach(self.listening);
        reach.iter().map(ToString::to_string).collect()
    }
}

#[derive(Default)]
struct State {
    plan: Option<Arc<Plan>>,
    /// The newest fence accepted.
    newest: Option<Fence>,
    /// Why the coordinator did not use this worker when it last said so.
    refusal: Option<String>,
    /// The coordinator that controls this worker now.
    session: Option<Session>,
}

/// A coordinator's control session: where its events go.
type Session = mpsc::Sender<Result<wire::ControlEvent, Status>>;

/// The plan that is being served.
pub(super) struct Plan {
    pub fence: Fence,
    /// Who sends steps to this stage.
    previous: PeerId,
    /// Bytes of payload a token on the edge into this stage.
    pub bytes_per_token: usize,
    /// Rows of one step.
    pub max_step_tokens: usize,
    /// Taken by the coordinator, at the last stage.
    pub results: Mutex<Option<mpsc::Receiver<StepResult>>>,
    /// Dropped when the plan ends, which ends its streams.
    pub ended: watch::Sender<()>,
    /// Counts streams of steps: a new one supersedes the one before.
    streams: Arc<AtomicU64>,
}

impl Plan {
    pub fn new(
        fence: Fence,
        previous: PeerId,
        bytes_per_token: usize,
        max_step_tokens: usize,
        results: Option<mpsc::Receiver<StepResult>>,
    ) -> Self {
        Plan {
            fence,
            previous,
            bytes_per_token,
            max_step_tokens,
            results: Mutex::new(results),
            ended: watch::Sender::new(()),
            streams: Arc::default(),
        }
    }
}

impl Shared {
    pub fn new(
        (link, home): (Link, Home),
        machine: Machine,
        place: Place,
        cache: WeightCache,
        compute: Compute,
    ) -> Self {
        Shared {
            link,
            home,
            machine,
            place,
            cache,
            compute,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn memory_budget_bytes(&self) -> u64 {
        self.machine
            .memory_budget_bytes(self.compute.held_bytes.load(Ordering::Relaxed))
    }

    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.state().plan.clone()
    }

    /// Accepts a fence: it must be of this worker's cluster, and not older than the newest.
    pub fn accept(&self, fence: Fence) -> Result<(), Status> {
        let own = self.link.id().cluster;
        if fence.cluster != own {
            return Err(Status::permission_denied(format!(
                "this worker belongs to cluster {own}, the plan to {}",
                fence.cluster
            )));
        }
        let mut state = self.state();
        let newest = state.newest.get_or_insert(fence);
        if fence.is_older_than(newest) {
            return Err(older(&fence, newest));
        }
        *newest = fence;
        Ok(())
    }

    /// Makes a plan current; the one before ends. A plan that is out of date by now is not: its load took longer than the
    /// next one's.
    pub fn begin_plan(&self, plan: Plan) -> Result<(), Status> {
        let mut state = self.state();
        match &state.newest {
            Some(newest) if plan.fence.is_older_than(newest) => Err(older(&plan.fence, newest)),
            _ => {
                state.plan = Some(Arc::new(plan));
                Ok(())
            }
        }
    }

    /// The current plan is not served any more.
    pub fn clear_plan(&self) {
        self.state().plan = None;
    }

    /// Ends the current plan and frees its memory.
    pub fn end_plan(&self) {
        self.clear_plan();
        // A full queue means that the thread is about to notice by itself that nobody reads its output.
        let _ = self.compute.commands.try_send(Command::Unload);
    }

    pub fn set_session(&self, session: Session) {
        self.state().session = Some(session);
    }

    /// The coordinator says who belongs to the cluster. Others are cut off.
    pub fn told_of(&self, members: &wire::Members) {
        let nodes = members.node_ids.iter();
        let nodes = nodes.filter_map(|id| NodeId::try_from(id.as_ref()).ok());
        self.link.admit(nodes);
        self.home.learn(&self.link, &members.coordinator_addresses);
    }

    /// The coordinator does not use this worker: its user should know why, once.
    pub fn refused(&self, why: &str) {
        let mut state = self.state();
        if state.refusal.as_deref() != Some(why) {
            tracing::error!(why = shown(why), "the coordinator does not use this worker");
            state.refusal = Some(why.to_owned());
        }
    }

    /// Whether a control session is open now.
    pub fn is_controlled(&self) -> bool {
        self.state()
            .session
            .as_ref()
            .is_some_and(|session| !session.is_closed())
    }

    /// Tells the coordinator something. Without one, or with one that does not read, it is lost.
    pub fn report(&self, fence: Fence, event: wire::control_event::Event) {
        let state = self.state();
        if let Some(session) = &state.session {
            let event = wire::ControlEvent {
                fence: Some(fence.into()),
                event: Some(event),
            };
            if session.try_send(Ok(event)).is_err() {
                tracing::warn!("an event could not be delivered to the coordinator");
            }
        }
    }
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        Service { shared }
    }

    fn current_plan(&self, fence: &Fence) -> Result<Arc<Plan>, Status> {
        let plan = self.shared.plan().filter(|plan| plan.fence == *fence);
        plan.ok_or_else(|| Status::failed_precondition(format!("plan {fence} is not loaded here")))
    }
}

fn older(fence: &Fence, newest: &Fence) -> Status {
    Status::failed_precondition(format!("plan {fence} is older than {newest}"))
}

/// A broken rule of the protocol, as a status.
pub(super) fn invalid(err: WireError) -> Status {
    Status::invalid_argument(err.to_string())
}

/// Who asks. A request that did not come over a link gets nothing.
fn peer<T>(request: &Request<T>) -> Result<PeerId, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.map(|peer| peer.id)
        .ok_or_else(|| Status::unauthenticated("this request did not come over a link"))
}

/// Lets only the coordinator pass.
fn from_coordinator<T>(request: &Request<T>) -> Result<(), Status> {
    match peer(request)? {
        peer if peer.role == Role::Coordinator => Ok(()),
        peer => Err(Status::permission_denied(format!(
            "only the coordinator may ask this, not {peer}"
        ))),
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerRpc for Service {
    type LoadStream = ResponseStream<wire::LoadProgress>;
    type ControlStream = ResponseStream<wire::ControlEvent>;

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::NodeInfo>, Status> {
        from_coordinator(&request)?;
        let theirs = request.get_ref().protocol;
        if theirs.abs_diff(PROTOCOL) > 1 {
            return Err(Status::failed_precondition(format!(
                "the coordinator speaks protocol {theirs}, this worker {PROTOCOL}; update the older of the two"
            )));
        }
        let serving = self.shared.plan().map(|plan| plan.fence);
        let in_use = self.shared.compute.held_bytes.load(Ordering::Relaxed);
        let addresses = self.shared.place.addresses();
        let info = self.shared.machine.describe(in_use, serving, addresses);
        Ok(Response::new(info))
    }

    async fn refuse(
        &self,
        request: Request<wire::RefuseRequest>,
    ) -> Result<Response<wire::RefuseReply>, Status> {
        from_coordinator(&request)?;
        self.shared.refused(&request.get_ref().why);
        Ok(Response::new(wire::RefuseReply {}))
    }

    async fn load(
        &self,
        request: Request<wire::LoadRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        from_coordinator(&request)?;
        let own = self.shared.link.id().cluster;
        let weights = self.shared.machine.weights;
        let request = loading::Request::from_wire(own, weights, request.into_inner())?;
        self.shared.accept(request.fence)?;
        let (progress, stream) = mpsc::channel(16);
        tokio::spawn(loading::run(Arc::clone(&self.shared), request, progress));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn control(
        &self,
        request: Request<Streaming<wire::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        from_coordinator(&request)?;
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("no first message"))?;
        let fence = Fence::try_from(&first.fence).map_err(invalid)?;
        self.shared.accept(fence)?;
        let (events, stream) = mpsc::channel(QUEUED_EVENTS);
        self.shared.set_session(events.clone());
        tokio::spawn(control::run(
            Arc::clone(&self.shared),
            first,
            requests,
            events,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tonic::async_trait]
impl StageRpc for Service {
    type ResultsStream = ResponseStream<wire::StepResult>;

    async fn steps(
        &self,
        request: Request<Streaming<wire::StepFrame>>,
    ) -> Result<Response<wire::StepsClosed>, Status> {
        let sender = peer(&request)?;
        let mut frames = request.into_inner();
        let Some(first) = frames.message().await? else {
            return Ok(Response::new(wire::StepsClosed {}));
        };
        let fence = Fence::try_from(&first.fence).map_err(invalid)?;
        let plan = self.current_plan(&fence)?;
        if sender != plan.previous {
            return Err(Status::permission_denied(format!(
                "in plan {fence} the steps of this stage come from {}, not from {sender}",
                plan.previous
            )));
        }
        let streams = Arc::clone(&plan.streams);
        let stream = streams.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ended = plan.ended.subscribe();
        let mut assembler = FrameAssembler::new(plan.bytes_per_token, plan.max_step_tokens);
        // The plan ends when the service lets go of it, so nobody else may hold on to it.
        drop(plan);
        let mut frame = Some(first);
        while let Some(next) = frame {
            let is_current = streams.load(Ordering::Relaxed) == stream;
            if Fence::try_from(&next.fence).map_err(invalid)? != fence || !is_current {
                return Err(Status::failed_precondition(
                    "these steps belong to an older plan or stream",
                ));
            }
            if let Some(arrived) = assembler.push(next).map_err(invalid)? {
                let sent = self
                    .shared
                    .compute
                    .commands
                    .send(Command::Step(arrived))
                    .await;
                sent.map_err(|_| Status::internal("the compute thread has stopped"))?;
            }
            frame = tokio::select! {
                message = frames.message() => message?,
                _ = ended.changed() => None,
            };
        }
        Ok(Response::new(wire::StepsClosed {}))
    }

    async fn results(
        &self,
        request: Request<wire::ResultsRequest>,
    ) -> Result<Response<Self::ResultsStream>, Status> {
        from_coordinator(&request)?;
        let fence = Fence::try_from(&request.get_ref().fence).map_err(invalid)?;
        let plan = self.current_plan(&fence)?;
        let taken = plan
            .results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let results = taken.ok_or_else(|| {
            Status::failed_precondition(
                "this is not the last stage, or its results are being read already",
            )
        })?;
        let stream = tokio_stream::StreamExt::map(
            ReceiverStream::new(results),
            move |result: StepResult| Ok(result.to_wire(fence.into())),
        );
        Ok(Response::new(Box::pin(stream)))
    }
}
