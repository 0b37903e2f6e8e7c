//! The Weights service: the bytes of any tensor of the opened models, asked for by hash.
//!
//! Reading the map can wait for a disk, so it happens on threads that may block, a frame at a time, and only when the stream
//! has room: a slow client holds a few frames and no thread. How many are served at once is bounded, others wait their turn.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_proto::wire::{FetchRequest, WeightChunk, weights_server::Weights};
use potluck_proto::{ContentHash, limits::MAX_FRAME_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Model;

/// Tensors served at once: enough to keep a fast network busy, few enough that their frames stay below 100 MiB.
const MAX_FETCHES: usize = 32;

/// Frames read ahead of the client, so that disk and network work at the same time.
const FRAMES_AHEAD: usize = 2;

/// How long a fetch waits for its turn before the client is told to try another source.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing before its fetch is given up. It then sees a stream that ends early, and can resume from
/// the offset that it has.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves the tensors of a set of models. Clones serve the same set and share its limits.
#[derive(Debug, Clone)]
pub struct WeightsService {
    by_hash: Arc<HashMap<ContentHash, Source>>,
    turns: Arc<Semaphore>,
}

/// Where the bytes of a hash lie.
#[derive(Debug, Clone)]
struct Source {
    model: Arc<Model>,
    range: Range<usize>,
}

impl WeightsService {
    /// A service of all tensors of `models`.
    pub fn new(models: impl IntoIterator<Item = Arc<Model>>) -> WeightsService {
        let mut by_hash = HashMap::new();
        for model in models {
            for tensor in model.tensors() {
                let source = Source {
                    model: Arc::clone(&model),
                    range: tensor.facts.range.clone(),
                };
                by_hash.insert(tensor.hash, source);
            }
        }
        WeightsService {
            by_hash: Arc::new(by_hash),
            turns: Arc::new(Semaphore::new(MAX_FETCHES)),
        }
    }

    /// The bytes that a request asks for.
    fn find(&self, request: &FetchRequest) -> Result<Source, Status> {
        let hash = ContentHash::try_from(request.hash.as_ref())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let source = self.by_hash.get(&hash).ok_or_else(|| {
            Status::not_found(format!(
                "no tensor with hash {hash} here: the model that it belongs to is not loaded; ask another source"
            ))
        })?;
        let n_bytes = source.range.len();
        let offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
        if offset > n_bytes {
            return Err(Status::out_of_range(format!(
                "the tensor has {n_bytes} bytes, byte {} was asked for",
                request.offset
            )));
        }
        Ok(Source {
            model: Arc::clone(&source.model),
            range: source.range.start + offset..source.range.end,
        })
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout(TURN_TIMEOUT, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Status::resource_exhausted(format!(
                "{MAX_FETCHES} tensors are being served and none ended in {} s; try again or ask another source",
                TURN_TIMEOUT.as_secs()
            ))),
        }
    }
}

#[tonic::async_trait]
impl Weights for WeightsService {
    type FetchStream = ReceiverStream<Result<WeightChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let source = self.find(request.get_ref())?;
        let turn = self.turn().await?;
        let (frames, stream) = mpsc::channel(FRAMES_AHEAD);
        tokio::spawn(async move {
            send_all(source, frames).await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends the bytes frame by frame until they, the client or its patience end.
async fn send_all(mut source: Source, frames: mpsc::Sender<Result<WeightChunk, Status>>) {
    while !source.range.is_empty() {
        let room = match tokio::time::timeout(STALL_TIMEOUT, frames.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::debug!("a client stopped taking weights");
                return;
            }
        };
        let frame = source.take_frame();
        let read = tokio::task::spawn_blocking(move || frame.read()).await;
        let read = read.unwrap_or_else(|error| Err(Status::internal(error.to_string())));
        let failed = read.is_err();
        room.send(read.map(|data| WeightChunk { data }));
        if failed {
            return;
        }
    }
}

impl Source {
    /// The next frame's worth of bytes, which are then no longer in `self`.
    fn take_frame(&mut self) -> Source {
        let end = self.range.end.min(self.range.start + MAX_FRAME_BYTES);
        let frame = self.range.start..end;
        self.range.start = end;
        Source {
            model: Arc::clone(&self.model),
            range: frame,
        }
    }

    /// Copies the bytes out of the map. Blocks while pages come from the disk.
    fn read(&self) -> Result<Bytes, Status> {
        self.model
            .check_unchanged()
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let bytes = self.model.bytes(self.range.clone());
        bytes
            .map(Bytes::copy_from_slice)
            .ok_or_else(|| Status::internal("the tensor lies outside of its file"))
    }
}
