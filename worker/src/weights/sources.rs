//! One source of weights: who it is, what it has, and a piece of it.

use std::time::Duration;

use bytes::Bytes;
use potluck_link::{Link, Target};
use potluck_proto::wire::weights_client::WeightsClient;
use potluck_proto::{ContentHash, NodeId, limits, wire};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::pieces::Piece;

/// Silence after which a source is given up. It may have to read a large tensor from a slow disk before its first byte.
const SILENCE: Duration = Duration::from_secs(20);

/// A source that was reached.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub node: NodeId,
    client: WeightsClient<Channel>,
}

/// A piece that did not come.
#[derive(Debug)]
pub(super) enum PieceError {
    /// The source does not have the tensor, or not any more.
    Lacking,
    /// The source is of no use.
    Broken(String),
}

impl Source {
    /// Opens a link, and asks which of the tensors are there.
    pub async fn connect(
        link: &Link,
        target: &Target,
        hashes: Vec<Bytes>,
    ) -> Result<(Source, Vec<bool>), String> {
        let connected = link.connect(target).await;
        let connected = connected.map_err(|error| error.to_string())?;
        let client = WeightsClient::new(connected.channel)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let source = Source {
            node: connected.peer.id.node,
            client,
        };
        let has = source.have(hashes).await?;
        Ok((source, has))
    }

    async fn have(&self, hashes: Vec<Bytes>) -> Result<Vec<bool>, String> {
        let n_hashes = hashes.len();
        let mut client = self.client.clone();
        let answer = in_time(client.have(wire::HaveRequest { hashes })).await?;
        match answer {
            Ok(reply) => {
                let bitmap = reply.into_inner().bitmap;
                let bit = |i: usize| {
                    bitmap
                        .get(i / 8)
                        .is_some_and(|byte| byte >> (i % 8) & 1 == 1)
                };
                Ok((0..n_hashes).map(bit).collect())
            }
            // A version that cannot be asked; it says so when it is asked for what it does not have.
            Err(status) if status.code() == Code::Unimplemented => Ok(vec![true; n_hashes]),
            Err(status) => Err(status.message().to_owned()),
        }
    }

    /// The bytes of a piece. What a source sends beyond them is not read.
    pub async fn fetch(&self, hash: ContentHash, piece: Piece) -> Result<Vec<u8>, PieceError> {
        let request = wire::FetchRequest {
            hash: Bytes::copy_from_slice(&hash.0),
            offset: piece.offset,
            n_bytes: piece.n_bytes,
        };
        let mut client = self.client.clone();
        let answer = in_time(client.fetch(request)).await;
        let mut chunks = answer.map_err(PieceError::Broken)??.into_inner();
        // At most PIECE_BYTES.
        let n_bytes = piece.n_bytes as usize;
        let mut bytes = Vec::with_capacity(n_bytes);
        while bytes.len() < n_bytes {
            let chunk = in_time(chunks.message()).await;
            let Some(chunk) = chunk.map_err(PieceError::Broken)?? else {
                return Err(PieceError::Broken(
                    "the source ended before the piece did".into(),
                ));
            };
            let wanted = chunk.data.len().min(n_bytes - bytes.len());
            bytes.extend_from_slice(&chunk.data[..wanted]);
        }
        Ok(bytes)
    }
}

impl From<Status> for PieceError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => PieceError::Lacking,
            _ => PieceError::Broken(status.message().to_owned()),
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, String> {
    let in_time = tokio::time::timeout(SILENCE, answer).await;
    in_time.map_err(|_| format!("the source was silent for {} s", SILENCE.as_secs()))
}
