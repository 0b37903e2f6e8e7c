//! A coordinator's control session: heartbeats are answered, and when it ends its sequences are let go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use potluck_proto::{Fence, wire};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::service::Shared;
use crate::compute::Command;

/// How long sequences outlive the session that owned them: a coordinator that only lost a connection may come back.
const LEASE: Duration = Duration::from_secs(30);

/// Answers pings until the coordinator goes away.
pub(super) async fn run(
    shared: Arc<Shared>,
    first: wire::ControlRequest,
    mut requests: Streaming<wire::ControlRequest>,
    events: mpsc::Sender<Result<wire::ControlEvent, Status>>,
) {
    let mut request = first;
    loop {
        if events.send(Ok(pong(&shared, &request))).await.is_err() {
            break;
        }
        if let Some(members) = &request.members {
            shared.told_of(members);
        }
        request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => break,
        };
        if let Ok(fence) = Fence::try_from(&request.fence)
            && let Err(status) = shared.accept(fence)
        {
            let _ = events.send(Err(status)).await;
            break;
        }
    }
    // The receiver must be seen as closed by `is_controlled`, so the last sender of this task goes first.
    drop(events);
    tokio::time::sleep(LEASE).await;
    if !shared.is_controlled() {
        let _ = shared.compute.commands.send(Command::Reset).await;
    }
}

fn pong(shared: &Shared, request: &wire::ControlRequest) -> wire::ControlEvent {
    let pong = wire::Pong {
        ping: request.ping,
        layers_done: shared.compute.layers_done.load(Ordering::Relaxed),
        busy: shared.compute.busy.load(Ordering::Relaxed),
    };
    wire::ControlEvent {
        fence: request.fence.clone(),
        event: Some(wire::control_event::Event::Pong(pong)),
    }
}
