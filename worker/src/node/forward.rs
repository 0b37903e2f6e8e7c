//! The edge to the next stage: one connection, one stream of frames, opened before the first step.

use std::sync::Arc;

use bytes::Bytes;
use potluck_link::{ConnectError, Link, Target};
use potluck_proto::wire::stage_client::StageClient;
use potluck_proto::{Fence, Step, frames, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::service::Shared;

/// Frames that may wait for the connection: a step of a few MiB.
const QUEUED_FRAMES: usize = 8;

/// Connects to the next stage.
pub(super) async fn connect(
    link: &Link,
    next: &Target,
) -> Result<(StageClient<Channel>, String), ConnectError> {
    let connected = link.connect(next).await?;
    let address = connected.peer.address.to_string();
    Ok((StageClient::new(connected.channel), address))
}

/// Sends steps on until the plan ends. A broken edge is reported to the coordinator, which decides what to do.
pub(super) async fn run(
    shared: Arc<Shared>,
    fence: Fence,
    next: String,
    mut client: StageClient<Channel>,
    mut outbox: mpsc::Receiver<(Step, Bytes)>,
) {
    let (sender, stream) = mpsc::channel(QUEUED_FRAMES);
    let feed = async {
        while let Some((step, payload)) = outbox.recv().await {
            for frame in frames(fence, &step, payload) {
                if sender.send(frame).await.is_err() {
                    // The call has ended; how, only it can tell.
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    // Where the plan is over, this is news of an old plan, which the coordinator ignores.
    let message = tokio::select! {
        () = feed => "its own stage has ended".to_owned(),
        result = client.steps(ReceiverStream::new(stream)) => match result {
            Ok(_) => "the next stage closed the stream".to_owned(),
            Err(status) => status.message().to_owned(),
        },
    };
    tracing::debug!(next, message, "the edge to the next stage ended");
    shared.report(
        fence,
        wire::control_event::Event::LinkDown(wire::LinkDown { next, message }),
    );
}
