//! The Weights service: the bytes of tensors, asked for by hash. Every node offers it, over a store of its own.
//!
//! Reading a store can wait for a disk, so it happens on threads that may block, a frame at a time, and only when the stream
//! has room: a slow client holds a few frames and no thread. How many are served at once is bounded, others wait their turn.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_proto::limits::{MAX_FRAME_BYTES, MAX_TENSORS};
use potluck_proto::wire::weights_server::{Weights, WeightsServer};
use potluck_proto::wire::{FetchRequest, HaveReply, HaveRequest, WeightChunk};
use potluck_proto::{ContentHash, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::stream::Peer;

/// Tensors served at once: enough to keep a fast network busy, few enough that their frames stay below 100 MiB.
const MAX_FETCHES: usize = 32;

/// Frames read ahead of the client, so that disk and network work at the same time.
const FRAMES_AHEAD: usize = 2;

/// How long a fetch waits for its turn before the client is told to try another source.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing before its fetch is given up. It then sees a stream that ends early, and can resume from
/// the offset that it has.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a node has its tensors. Every call may block.
pub trait TensorStore: Send + Sync + 'static {
    /// The bytes of one tensor.
    type Tensor: StoredBytes;

    /// Whether a tensor is there. Asked for thousands, so without reading it.
    fn has(&self, hash: &ContentHash) -> bool;

    /// A tensor, if it is there and whole.
    fn find(&self, hash: &ContentHash) -> Result<Option<Self::Tensor>, Status>;
}

/// Bytes that can be read in parts.
pub trait StoredBytes: Send + Sync + 'static {
    /// How many.
    fn n_bytes(&self) -> u64;

    /// Those of a range within `n_bytes`. May block.
    fn read(&self, range: Range<u64>) -> Result<Bytes, Status>;
}

/// Serves the tensors of a store.
#[derive(Debug)]
pub struct WeightsService<S> {
    store: Arc<S>,
    turns: Arc<Semaphore>,
}

impl<S: TensorStore> WeightsService<S> {
    /// The service of a store, as a gRPC server takes it.
    pub fn server(store: S) -> WeightsServer<WeightsService<S>> {
        let service = WeightsService {
            store: Arc::new(store),
            turns: Arc::new(Semaphore::new(MAX_FETCHES)),
        };
        WeightsServer::new(service).max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    /// The tensor that a request asks for, and which of its bytes.
    async fn find(&self, request: &FetchRequest) -> Result<(S::Tensor, Range<u64>), Status> {
        let hash = hash_of(&request.hash)?;
        let store = Arc::clone(&self.store);
        let found = blocking(move || store.find(&hash)).await?;
        let tensor = found.ok_or_else(|| {
            Status::not_found(format!(
                "no tensor with hash {hash} here: the model that it belongs to is not loaded; ask another source"
            ))
        })?;
        let range = range_of(request, tensor.n_bytes())?;
        Ok((tensor, range))
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
impl<S: TensorStore> Weights for WeightsService<S> {
    type FetchStream = ReceiverStream<Result<WeightChunk, Status>>;

    async fn have(&self, request: Request<HaveRequest>) -> Result<Response<HaveReply>, Status> {
        over_a_link(&request)?;
        let hashes = request.into_inner().hashes;
        if hashes.len() > MAX_TENSORS {
            return Err(Status::invalid_argument(format!(
                "{} tensors were asked for, the limit is {MAX_TENSORS}",
                hashes.len()
            )));
        }
        let hashes = hashes.iter().map(hash_of);
        let hashes = hashes.collect::<Result<Vec<_>, _>>()?;
        let _turn = self.turn().await?;
        let store = Arc::clone(&self.store);
        let bitmap = blocking(move || {
            let mut bitmap = vec![0; hashes.len().div_ceil(8)];
            for (i, hash) in hashes.iter().enumerate() {
                bitmap[i / 8] |= u8::from(store.has(hash)) << (i % 8);
            }
            Ok(bitmap)
        });
        let bitmap = bitmap.await?.into();
        Ok(Response::new(HaveReply { bitmap }))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        over_a_link(&request)?;
        let turn = self.turn().await?;
        let (tensor, range) = self.find(request.get_ref()).await?;
        let (frames, stream) = mpsc::channel(FRAMES_AHEAD);
        tokio::spawn(async move {
            send_all(Arc::new(tensor), range, frames).await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Whoever comes over a link is a node of the cluster, and was admitted.
fn over_a_link<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Peer>() {
        Some(_) => Ok(()),
        None => Err(Status::unauthenticated(
            "this request did not come over a link",
        )),
    }
}

fn hash_of(bytes: &Bytes) -> Result<ContentHash, Status> {
    ContentHash::try_from(bytes.as_ref())
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The bytes that a request asks for, of a tensor of `n_bytes`.
fn range_of(request: &FetchRequest, n_bytes: u64) -> Result<Range<u64>, Status> {
    let start = request.offset;
    let end = match request.n_bytes {
        0 => n_bytes.max(start),
        asked => start.saturating_add(asked),
    };
    match start <= n_bytes && end <= n_bytes {
        true => Ok(start..end),
        false => Err(Status::out_of_range(format!(
            "the tensor has {n_bytes} bytes, those from {start} to {end} were asked for"
        ))),
    }
}

/// Sends the bytes frame by frame until they, the client or its patience end.
async fn send_all<T: StoredBytes>(
    tensor: Arc<T>,
    range: Range<u64>,
    frames: mpsc::Sender<Result<WeightChunk, Status>>,
) {
    let mut start = range.start;
    while start < range.end {
        let room = match tokio::time::timeout(STALL_TIMEOUT, frames.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::debug!("a client stopped taking weights");
                return;
            }
        };
        let end = range.end.min(start + MAX_FRAME_BYTES as u64);
        let (frame, reader) = (start..end, Arc::clone(&tensor));
        let read = blocking(move || reader.read(frame)).await;
        let failed = read.is_err();
        room.send(read.map(|data| WeightChunk { data }));
        if failed {
            return;
        }
        start = end;
    }
}

/// Work that may wait for a disk, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_within_its_tensor() {
        let table = [
            (0, 0, Some(0..10)),
            (4, 0, Some(4..10)),
            (4, 6, Some(4..10)),
            (4, 2, Some(4..6)),
            (10, 0, Some(10..10)),
            (11, 0, None),
            (4, 7, None),
            (u64::MAX, u64::MAX, None),
        ];
        for (offset, n_bytes, wanted) in table {
            let request = FetchRequest {
                hash: Bytes::new(),
                offset,
                n_bytes,
            };
            assert_eq!(range_of(&request, 10).ok(), wanted, "{offset} {n_bytes}");
        }
    }
}
