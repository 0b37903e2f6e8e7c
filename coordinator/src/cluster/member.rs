//! One worker as a task: connect, describe, then heartbeats on its control session until it is lost.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_link::words::shown;
use potluck_link::{ConnectError, Link, Target};
use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::{Fence, InstanceId, NodeId, PROTOCOL, WireError, limits, wire};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::membership::{Hint, Verdict};
use super::node_info::believed;

/// Time between pings.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Silence after which a worker counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_millis(2500);

/// How long a worker may take to describe itself.
pub(super) const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker says of itself.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// Who it has proven to be.
    pub node: NodeId,
    pub instance: InstanceId,
    /// How it was found.
    pub hint: Hint,
    /// Where it was reached.
    pub address: SocketAddr,
    pub info: wire::NodeInfo,
    pub client: WorkerClient<Channel>,
}

/// A worker that could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// No link to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It answers, but not as a worker of a version we know.
    #[error("the worker at {address} cannot be used: {why}")]
    Unusable {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
}

/// News of a worker.
#[derive(Debug)]
pub(super) enum MemberEvent {
    /// It answered and can be planned with. The verdict is awaited before anything else happens to it.
    Answered(Box<Described>, oneshot::Sender<Verdict>),
    /// It was found twice.
    Known { hint: Hint },
    /// It could not be asked.
    Refused { hint: Hint, error: DescribeError },
    /// It is gone.
    Lost {
        node: NodeId,
        instance: InstanceId,
        why: String,
    },
    /// It has computed layers since it was last heard.
    Progress,
    /// A run of the ring failed there.
    Fault { fence: Fence, fault: wire::RunFault },
    /// It cannot reach the next stage.
    LinkDown {
        fence: Fence,
        node: NodeId,
        message: String,
    },
}

/// What the worker at `target` says of itself.
pub async fn describe(
    link: &Link,
    target: &Target,
) -> Result<(NodeId, SocketAddr, wire::NodeInfo), DescribeError> {
    let answer = ask(link, target).await?;
    Ok((answer.node, answer.address, answer.info))
}

/// A worker that answered.
struct Answer {
    node: NodeId,
    address: SocketAddr,
    info: wire::NodeInfo,
    client: WorkerClient<Channel>,
}

async fn ask(link: &Link, target: &Target) -> Result<Answer, DescribeError> {
    let connected = link.connect(target).await?;
    let address = connected.peer.address;
    let unusable = |why: String| DescribeError::Unusable { address, why };
    let mut client =
        WorkerClient::new(connected.channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    let answer = tokio::time::timeout(
        DESCRIBE_TIMEOUT,
        client.describe(wire::DescribeRequest { protocol: PROTOCOL }),
    );
    let info = answer
        .await
        .map_err(|_| unusable(format!("no answer within {} s", DESCRIBE_TIMEOUT.as_secs())))?
        .map_err(|status| unusable(shown(status.message())))?
        .into_inner();
    let info = match believed(info) {
        Ok(info) => info,
        Err(why) => {
            refuse(client, &why).await;
            return Err(unusable(why));
        }
    };
    Ok(Answer {
        node: connected.peer.id.node,
        address,
        info,
        client,
    })
}

/// What every watcher needs.
#[derive(Clone)]
pub(super) struct Watch {
    pub link: Link,
    /// The newest plan's.
    pub fence: watch::Receiver<Fence>,
    /// Who belongs to the cluster.
    pub members: watch::Receiver<wire::Members>,
    pub events: mpsc::Sender<MemberEvent>,
}

impl Watch {
    /// Follows a hint, and watches the worker that it leads to until it is lost.
    pub async fn run(self, hint: Hint) {
        let event = match self.follow(&hint).await {
            Ok(event) => event,
            Err(error) => MemberEvent::Refused { hint, error },
        };
        // Without a supervisor there is nobody to tell.
        let _ = self.events.send(event).await;
    }

    async fn follow(&self, hint: &Hint) -> Result<MemberEvent, DescribeError> {
        let answer = ask(&self.link, &hint.target).await?;
        let (address, client) = (answer.address, answer.client.clone());
        let unusable = |why: String| DescribeError::Unusable { address, why };
        let instance = InstanceId::try_from(answer.info.instance.as_ref())
            .map_err(|err: WireError| unusable(err.to_string()))?;
        let node = answer.node;
        let described = Described {
            node,
            instance,
            hint: hint.clone(),
            address,
            info: answer.info,
            client: answer.client,
        };
        let (verdict_sender, verdict) = oneshot::channel();
        let answered = MemberEvent::Answered(Box::new(described), verdict_sender);
        let stopping = |_| unusable("the coordinator is stopping".into());
        self.events
            .send(answered)
            .await
            .map_err(|_| unusable("the coordinator is stopping".into()))?;
        match verdict.await.map_err(stopping)? {
            Verdict::Known => Ok(MemberEvent::Known { hint: hint.clone() }),
            Verdict::Copy { other } => {
                let why = format!(
                    "another process with the identity of this machine is in the cluster, at {other}; was its state directory copied? \
                     Run `potluck join` with a new invite on one of the two"
                );
                refuse(client, &why).await;
                Err(unusable(why))
            }
            Verdict::Joined => {
                let why = self.until_lost(node, client).await;
                Ok(MemberEvent::Lost {
                    node,
                    instance,
                    why,
                })
            }
        }
    }

    /// Opens the control session and keeps it. Returns how the worker was lost.
    async fn until_lost(&self, node: NodeId, client: WorkerClient<Channel>) -> String {
        let (pings, requests) = mpsc::channel(4);
        let mut members = self.members.clone();
        let first = wire::ControlRequest {
            fence: Some((*self.fence.borrow()).into()),
            ping: 0,
            members: Some(members.borrow_and_update().clone()),
        };
        let opened = open_session(client, first, &pings, requests);
        match opened.await {
            Ok(session) => {
                let pulse = Pulse {
                    node,
                    fence: self.fence.clone(),
                    members,
                    pings,
                };
                pulse.keep(session, &self.events).await
            }
            Err(status) => format!("it refuses to be controlled ({})", shown(status.message())),
        }
    }
}

/// Tells a worker why it is not used, for its user. If that does not arrive, the coordinator's log still says it.
async fn refuse(mut client: WorkerClient<Channel>, why: &str) {
    let request = wire::RefuseRequest {
        why: why.to_owned(),
    };
    let _ = tokio::time::timeout(DESCRIBE_TIMEOUT, client.refuse(request)).await;
}

type Session = tonic::Streaming<wire::ControlEvent>;

async fn open_session(
    mut client: WorkerClient<Channel>,
    first: wire::ControlRequest,
    pings: &mpsc::Sender<wire::ControlRequest>,
    requests: mpsc::Receiver<wire::ControlRequest>,
) -> Result<Session, tonic::Status> {
    let closed = |_| tonic::Status::internal("the session closed before it began");
    pings.send(first).await.map_err(closed)?;
    Ok(client
        .control(ReceiverStream::new(requests))
        .await?
        .into_inner())
}

/// The heartbeat of one worker.
struct Pulse {
    node: NodeId,
    fence: watch::Receiver<Fence>,
    members: watch::Receiver<wire::Members>,
    pings: mpsc::Sender<wire::ControlRequest>,
}

impl Pulse {
    /// Pings until the worker is silent for too long or the session ends. Returns how it was lost.
    async fn keep(mut self, mut session: Session, events: &mpsc::Sender<MemberEvent>) -> String {
        let mut ticks = tokio::time::interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut n_pings, mut heard, mut layers_done) = (0, Instant::now(), 0);
        loop {
            tokio::select! {
                message = session.message() => {
                    let event = match message {
                        Ok(Some(event)) => event,
                        Ok(None) => return "it closed its session".into(),
                        Err(status) => return format!("its connection broke ({})", shown(status.message())),
                    };
                    heard = Instant::now();
                    if let Some(event) = member_event(self.node, event, &mut layers_done)
                        && events.send(event).await.is_err()
                    {
                        return "the coordinator is stopping".into();
                    }
                    continue;
                }
                Ok(()) = self.members.changed() => {}
                _ = ticks.tick() => {}
            }
            if heard.elapsed() > SILENCE_LIMIT {
                return format!(
                    "it has been silent for {:.1} s",
                    heard.elapsed().as_secs_f32()
                );
            }
            n_pings += 1;
            // A full queue means that pings are not going out, which the silence limit will notice.
            let ping = self.ping(n_pings);
            if let Err(mpsc::error::TrySendError::Closed(_)) = self.pings.try_send(ping) {
                return "its connection broke".into();
            }
        }
    }

    /// The list of members goes with every ping: a few bytes a node, and no list is ever missed.
    fn ping(&mut self, number: u64) -> wire::ControlRequest {
        wire::ControlRequest {
            fence: Some((*self.fence.borrow()).into()),
            ping: number,
            members: Some(self.members.borrow_and_update().clone()),
        }
    }
}

/// What an event means. A pong is news only if its count of layers has changed.
fn member_event(
    node: NodeId,
    event: wire::ControlEvent,
    layers_done: &mut u64,
) -> Option<MemberEvent> {
    use wire::control_event::Event;
    let fence = Fence::try_from(&event.fence).ok()?;
    match event.event? {
        Event::Pong(pong) => {
            let before = std::mem::replace(layers_done, pong.layers_done);
            (before != pong.layers_done).then_some(MemberEvent::Progress)
        }
        Event::RunFault(fault) => Some(MemberEvent::Fault {
            fence,
            fault: wire::RunFault {
                message: shown(&fault.message),
                ..fault
            },
        }),
        Event::LinkDown(down) => Some(MemberEvent::LinkDown {
            fence,
            node,
            message: shown(&down.message),
        }),
    }
}
