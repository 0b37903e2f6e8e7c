//! The coordinator's two ends of the ring: steps into the first stage, results out of the last.

use std::time::Duration;

use bytes::Bytes;
use potluck_link::words::shown;
use potluck_link::{Link, Target};
use potluck_proto::wire::stage_client::StageClient;
use potluck_proto::{Fence, Step, StepId, StepResult, frames, limits, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Frames on their way to the first stage. They carry no payload, so more than the steps under way are never needed.
const QUEUED_FRAMES: usize = 2 * limits::MAX_STAGES;

/// How long an empty step may take round the ring when it is opened.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of the empty step that proves the ring: no plan has that many.
const PROBE: StepId = StepId(u64::MAX);

/// News of a ring.
#[derive(Debug)]
pub(super) enum RingNews {
    /// An empty step came round.
    Open {
        frames: mpsc::Sender<wire::StepFrame>,
        ring_us: u64,
    },
    /// A step came back.
    Result(StepResult),
    /// A stream broke, or the ring never opened.
    Broken { why: String },
}

/// A worker that the coordinator is connected to.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// Its name, for messages.
    pub name: String,
    /// Where it is, and who.
    pub target: Target,
}

impl End {
    fn unreachable(&self, why: &str) -> String {
        format!("worker {} cannot be reached ({why})", self.name)
    }

    fn broke(&self, why: &str) -> String {
        format!("the connection to worker {} broke ({why})", self.name)
    }

    fn closed(&self) -> String {
        format!("worker {} closed its connection", self.name)
    }
}

/// Opens the ring and reads its results until it breaks. `news` carry the plan's number.
pub(super) async fn run(
    link: Link,
    fence: Fence,
    first: End,
    last: End,
    news: mpsc::Sender<(u64, RingNews)>,
) {
    let plan_gen = fence.plan_gen.0;
    if let Err(why) = serve(&link, fence, first, last, &news).await {
        let _ = news.send((plan_gen, RingNews::Broken { why })).await;
    }
}

async fn serve(
    link: &Link,
    fence: Fence,
    first: End,
    last: End,
    news: &mpsc::Sender<(u64, RingNews)>,
) -> Result<(), String> {
    let plan_gen = fence.plan_gen.0;
    let mut results = open_results(link, fence, &last).await?;
    let connected = link
        .connect(&first.target)
        .await
        .map_err(|err| first.unreachable(&err.to_string()))?;
    let mut steps_client = StageClient::new(connected.channel);
    let (sender, stream) = mpsc::channel(QUEUED_FRAMES);
    let steps = steps_client.steps(ReceiverStream::new(stream));
    let read = async {
        let ring_us = probe(fence, &sender, &mut results, &last).await?;
        let open = RingNews::Open {
            frames: sender,
            ring_us,
        };
        if news.send((plan_gen, open)).await.is_err() {
            return Ok(());
        }
        loop {
            let result = next_result(&mut results, &last).await?;
            if news
                .send((plan_gen, RingNews::Result(result)))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = read => result,
        closed = steps => Err(match closed {
            Ok(_) => first.closed(),
            Err(status) => first.broke(&shown(status.message())),
        }),
    }
}

async fn open_results(
    link: &Link,
    fence: Fence,
    last: &End,
) -> Result<tonic::Streaming<wire::StepResult>, String> {
    let connected = link
        .connect(&last.target)
        .await
        .map_err(|err| last.unreachable(&err.to_string()))?;
    let mut client =
        StageClient::new(connected.channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    let opened = client
        .results(wire::ResultsRequest {
            fence: Some(fence.into()),
        })
        .await;
    opened
        .map(|response| response.into_inner())
        .map_err(|status| last.broke(&shown(status.message())))
}

/// Sends an empty step round and measures how long it takes.
async fn probe(
    fence: Fence,
    frames_out: &mpsc::Sender<wire::StepFrame>,
    results: &mut tonic::Streaming<wire::StepResult>,
    last: &End,
) -> Result<u64, String> {
    let step = Step {
        id: PROBE,
        runs: Vec::new(),
        release: Vec::new(),
        stage_us: Vec::new(),
    };
    let start = std::time::Instant::now();
    for frame in frames(fence, &step, Bytes::new()) {
        frames_out
            .send(frame)
            .await
            .map_err(|_| "the first stage closed its stream".to_owned())?;
    }
    let came_round = tokio::time::timeout(PROBE_TIMEOUT, next_result(results, last)).await;
    let result =
        came_round.map_err(|_| "an empty step did not come round the ring".to_owned())??;
    match result.id == PROBE {
        true => Ok(start.elapsed().as_micros() as u64),
        false => Err("the ring answered another step than it was asked".into()),
    }
}

async fn next_result(
    results: &mut tonic::Streaming<wire::StepResult>,
    last: &End,
) -> Result<StepResult, String> {
    let message = results
        .message()
        .await
        .map_err(|status| last.broke(&shown(status.message())))?;
    let message = message.ok_or_else(|| last.closed())?;
    StepResult::from_wire(message).map_err(|err| err.to_string())
}
