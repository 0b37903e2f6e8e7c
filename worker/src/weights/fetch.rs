//! Fetches tensors by hash from the nodes that serve them, several at once, resuming what was begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use potluck_link::{Link, Target};
use potluck_proto::wire::weights_client::WeightsClient;
use potluck_proto::{ContentHash, Manifest, ManifestTensor, limits, wire};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::cache::{CacheError, PartFile, WeightCache};

/// Tensors under way at once: enough to hide the latency between two, few enough to leave the link to others.
const PARALLEL_FETCHES: usize = 3;

/// Silence after which a source is given up.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a tensor that arrives damaged is fetched again.
const MAX_ATTEMPTS: usize = 3;

/// Weights that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// None of the sources answered.
    #[error(
        "no source of weights could be reached: {why}; check that the coordinator is still running"
    )]
    NoSource {
        /// The last error.
        why: String,
    },
    /// A source broke off.
    #[error("tensor `{name}` could not be fetched: {why}")]
    Broken {
        /// Name of the tensor.
        name: String,
        /// Why.
        why: String,
    },
    /// A source keeps sending other bytes than the hash says.
    #[error(
        "tensor `{name}` arrived damaged {MAX_ATTEMPTS} times; its source's copy of the model is broken"
    )]
    WrongBytes {
        /// Name of the tensor.
        name: String,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What a fetch moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that crossed the network.
    pub fetched_bytes: u64,
    /// Bytes that were in the cache already.
    pub cached_bytes: u64,
}

/// Brings every tensor of the manifest into the cache. `progress` counts bytes fetched.
pub async fn fetch_missing(
    link: &Link,
    cache: &WeightCache,
    manifest: &Manifest,
    sources: &[Target],
    progress: Arc<AtomicU64>,
) -> Result<Fetched, FetchError> {
    let mut missing: Vec<_> = manifest
        .tensors
        .iter()
        .filter(|t| !cache.has(&t.hash, t.n_bytes))
        .cloned()
        .collect();
    missing.sort_by_key(|tensor| tensor.hash);
    missing.dedup_by_key(|tensor| tensor.hash);
    if missing.is_empty() {
        return Ok(Fetched {
            fetched_bytes: 0,
            cached_bytes: manifest.n_bytes(),
        });
    }
    let client = first_reachable(link, sources).await?;
    let mut tasks = JoinSet::new();
    for tensor in missing {
        if tasks.len() >= PARALLEL_FETCHES {
            joined(tasks.join_next().await)?;
        }
        tasks.spawn(fetch(
            client.clone(),
            cache.clone(),
            tensor,
            Arc::clone(&progress),
        ));
    }
    while let Some(result) = tasks.join_next().await {
        joined(Some(result))?;
    }
    // What another process on this machine fetched meanwhile, and what was left of an earlier fetch, was here as well.
    let fetched_bytes = progress.load(Ordering::Relaxed);
    Ok(Fetched {
        fetched_bytes,
        cached_bytes: manifest.n_bytes().saturating_sub(fetched_bytes),
    })
}

fn joined(
    result: Option<Result<Result<(), FetchError>, tokio::task::JoinError>>,
) -> Result<(), FetchError> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(join_error)) => std::panic::resume_unwind(join_error.into_panic()),
    }
}

async fn first_reachable(
    link: &Link,
    sources: &[Target],
) -> Result<WeightsClient<Channel>, FetchError> {
    let mut why = "no source was named".to_owned();
    for source in sources {
        match link.connect(source).await {
            Ok(connected) => {
                return Ok(WeightsClient::new(connected.channel)
                    .max_decoding_message_size(limits::MAX_MESSAGE_BYTES));
            }
            Err(err) => why = err.to_string(),
        }
    }
    Err(FetchError::NoSource { why })
}

async fn fetch(
    mut client: WeightsClient<Channel>,
    cache: WeightCache,
    tensor: ManifestTensor,
    progress: Arc<AtomicU64>,
) -> Result<(), FetchError> {
    for _ in 0..MAX_ATTEMPTS {
        let (hash, n_bytes) = (tensor.hash, tensor.n_bytes);
        let opened = blocking({
            let cache = cache.clone();
            move || cache.begin(&hash, n_bytes)
        })
        .await?;
        let Some(part) = opened else {
            return Ok(());
        };
        let part = receive(&mut client, &tensor, part, &progress).await?;
        if part.len() < n_bytes {
            // The source ended early; what came is kept, and the next attempt goes on from there.
            continue;
        }
        if blocking(move || part.finish(&hash)).await? {
            return Ok(());
        }
        tracing::warn!(
            tensor = tensor.name,
            "tensor arrived damaged, fetching it again"
        );
    }
    Err(FetchError::WrongBytes { name: tensor.name })
}

async fn receive(
    client: &mut WeightsClient<Channel>,
    tensor: &ManifestTensor,
    mut part: PartFile,
    progress: &AtomicU64,
) -> Result<PartFile, FetchError> {
    let broken = |why: String| FetchError::Broken {
        name: tensor.name.clone(),
        why,
    };
    let request = wire::FetchRequest {
        hash: hash_bytes(&tensor.hash),
        offset: part.len(),
    };
    let mut chunks = client
        .fetch(request)
        .await
        .map_err(|status| broken(status.message().into()))?
        .into_inner();
    loop {
        let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message())
            .await
            .map_err(|_| {
                broken(format!(
                    "the source was silent for {} s",
                    CHUNK_TIMEOUT.as_secs()
                ))
            })?
            .map_err(|status| broken(status.message().into()))?;
        let Some(chunk) = chunk else { break };
        let data = chunk.data;
        if part.len() + data.len() as u64 > tensor.n_bytes {
            return Err(broken(format!(
                "the source sent more than its {} bytes",
                tensor.n_bytes
            )));
        }
        progress.fetch_add(data.len() as u64, Ordering::Relaxed);
        part = blocking(move || part.append(&data).map(|()| part)).await?;
    }
    Ok(part)
}

fn hash_bytes(hash: &ContentHash) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&hash.0)
}

/// Disk work, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
    }
}
