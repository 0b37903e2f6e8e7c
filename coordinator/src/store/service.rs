//! The tensors of the opened models, as the Weights service hands them out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use potluck_link::weights::{StoredBytes, TensorStore};
use potluck_proto::ContentHash;
use tonic::Status;

use super::Model;

/// The tensors of a set of models, by hash.
#[derive(Debug)]
pub struct ModelTensors {
    by_hash: HashMap<ContentHash, ModelTensor>,
}

/// Where the bytes of a hash lie.
#[derive(Debug, Clone)]
pub struct ModelTensor {
    model: Arc<Model>,
    range: Range<usize>,
}

impl ModelTensors {
    /// All tensors of `models`.
    pub fn new(models: impl IntoIterator<Item = Arc<Model>>) -> ModelTensors {
        let mut by_hash = HashMap::new();
        for model in models {
            for tensor in model.tensors() {
                let found = ModelTensor {
                    model: Arc::clone(&model),
                    range: tensor.facts.range.clone(),
                };
                by_hash.insert(tensor.hash, found);
            }
        }
        ModelTensors { by_hash }
    }
}

impl TensorStore for ModelTensors {
    type Tensor = ModelTensor;

    fn has(&self, hash: &ContentHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    fn find(&self, hash: &ContentHash) -> Result<Option<ModelTensor>, Status> {
        Ok(self.by_hash.get(hash).cloned())
    }
}

impl StoredBytes for ModelTensor {
    fn n_bytes(&self) -> u64 {
        self.range.len() as u64
    }

    /// Copies the bytes out of the map. Blocks while pages come from the disk.
    fn read(&self, range: Range<u64>) -> Result<Bytes, Status> {
        self.model
            .check_unchanged()
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let outside = || Status::internal("the tensor lies outside of its file");
        let place = |offset: u64| self.range.start.checked_add(usize::try_from(offset).ok()?);
        let start = place(range.start).ok_or_else(outside)?;
        let end = place(range.end).ok_or_else(outside)?;
        let bytes = self.model.bytes(start..end);
        bytes.map(Bytes::copy_from_slice).ok_or_else(outside)
    }
}
