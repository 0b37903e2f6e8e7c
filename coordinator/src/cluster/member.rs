//! One worker as a task: connect, describe, then heartbeats on its control session until it is lost.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::{Fence, NodeId, PROTOCOL, WireError, limits, link, wire};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Time between pings.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Silence after which a worker counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_millis(2500);

/// How long a worker may take to describe itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker says of itself.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub node: NodeId,
    pub address: SocketAddr,
    pub info: wire::NodeInfo,
    pub client: WorkerClient<Channel>,
}

/// A worker that could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Nobody answers there.
    #[error("no worker answers at {address}: {why}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
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
    /// It answered and can be planned with.
    Joined(Box<Described>),
    /// It could not be asked.
    Refused {
        address: SocketAddr,
        error: DescribeError,
    },
    /// It is gone.
    Lost {
        node: NodeId,
        address: SocketAddr,
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
        next: String,
        message: String,
    },
}

/// What the worker at `address` says of itself.
pub async fn describe(address: SocketAddr) -> Result<(NodeId, wire::NodeInfo), DescribeError> {
    let described = ask(address).await?;
    Ok((described.node, described.info))
}

async fn ask(address: SocketAddr) -> Result<Described, DescribeError> {
    let unreachable = |why: String| DescribeError::Unreachable { address, why };
    let unusable = |why: String| DescribeError::Unusable { address, why };
    let channel = link::connect(&address.to_string())
        .await
        .map_err(|err| unreachable(error_chain(&err)))?;
    let mut client =
        WorkerClient::new(channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    let answer = tokio::time::timeout(
        DESCRIBE_TIMEOUT,
        client.describe(wire::DescribeRequest { protocol: PROTOCOL }),
    );
    let info = answer
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", DESCRIBE_TIMEOUT.as_secs())))?
        .map_err(|status| unusable(status.message().to_owned()))?
        .into_inner();
    if info.protocol.abs_diff(PROTOCOL) > 1 {
        let theirs = info.protocol;
        return Err(unusable(format!(
            "it speaks protocol {theirs}, this coordinator {PROTOCOL}; update the older one"
        )));
    }
    let node = NodeId::try_from(info.node_id.as_ref())
        .map_err(|err: WireError| unusable(err.to_string()))?;
    Ok(Described {
        node,
        address,
        info,
        client,
    })
}

/// An error and what caused it, in one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Watches the worker at `address` until it is lost. `fence` is the newest plan's.
pub(super) async fn watch(
    address: SocketAddr,
    fence: watch::Receiver<Fence>,
    events: mpsc::Sender<MemberEvent>,
) {
    let described = match ask(address).await {
        Ok(described) => described,
        Err(error) => {
            let _ = events.send(MemberEvent::Refused { address, error }).await;
            return;
        }
    };
    let (node, client) = (described.node, described.client.clone());
    let (pings, requests) = mpsc::channel(4);
    // The session is opened before the worker counts as joined: a worker that serves another cluster refuses here.
    let newest = *fence.borrow();
    let opened = open_session(client, newest, &pings, requests).await;
    let session = match opened {
        Ok(session) => session,
        Err(status) => {
            let error = DescribeError::Unusable {
                address,
                why: status.message().to_owned(),
            };
            let _ = events.send(MemberEvent::Refused { address, error }).await;
            return;
        }
    };
    if events
        .send(MemberEvent::Joined(Box::new(described)))
        .await
        .is_err()
    {
        return;
    }
    let why = heartbeat(node, fence, pings, session, &events).await;
    let _ = events.send(MemberEvent::Lost { node, address, why }).await;
}

type Session = tonic::Streaming<wire::ControlEvent>;

async fn open_session(
    mut client: WorkerClient<Channel>,
    fence: Fence,
    pings: &mpsc::Sender<wire::ControlRequest>,
    requests: mpsc::Receiver<wire::ControlRequest>,
) -> Result<Session, tonic::Status> {
    let first = wire::ControlRequest {
        fence: Some(fence.into()),
        ping: 0,
    };
    let closed = |_| tonic::Status::internal("the session closed before it began");
    pings.send(first).await.map_err(closed)?;
    Ok(client
        .control(ReceiverStream::new(requests))
        .await?
        .into_inner())
}

/// Pings until the worker is silent for too long or the session ends. Returns how it was lost.
async fn heartbeat(
    node: NodeId,
    fence: watch::Receiver<Fence>,
    pings: mpsc::Sender<wire::ControlRequest>,
    mut session: Session,
    events: &mpsc::Sender<MemberEvent>,
) -> String {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut n_pings, mut heard, mut layers_done) = (0, Instant::now(), 0);
    loop {
        tokio::select! {
            message = session.message() => {
                let event = match message {
                    Ok(Some(event)) => event,
                    Ok(None) => return "it closed its session".into(),
                    Err(status) => return format!("its connection broke ({})", status.message()),
                };
                heard = Instant::now();
                if let Some(event) = member_event(node, event, &mut layers_done)
                    && events.send(event).await.is_err()
                {
                    return "the coordinator is stopping".into();
                }
            }
            _ = ticks.tick() => {
                if heard.elapsed() > SILENCE_LIMIT {
                    return format!("it has been silent for {:.1} s", heard.elapsed().as_secs_f32());
                }
                n_pings += 1;
                let newest = *fence.borrow();
                let ping = wire::ControlRequest { fence: Some(newest.into()), ping: n_pings };
                // A full queue means that pings are not going out, which the silence limit will notice.
                if let Err(mpsc::error::TrySendError::Closed(_)) = pings.try_send(ping) {
                    return "its connection broke".into();
                }
            }
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
        Event::RunFault(fault) => Some(MemberEvent::Fault { fence, fault }),
        Event::LinkDown(down) => Some(MemberEvent::LinkDown {
            fence,
            node,
            next: down.next,
            message: down.message,
        }),
    }
}
