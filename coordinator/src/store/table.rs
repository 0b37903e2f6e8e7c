//! The tensor table of a model as owned data: what there is, where it lies, which part of the model it belongs to.

use std::ops::Range;

use potluck_gguf::{Gguf, ModelShape, TensorPlace, span_of};
use potluck_proto::{ContentHash, ManifestTensor};

use super::error::StoreError;

/// The token embedding; also the output matrix of models without one of their own.
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
const OUTPUT_NORM: &str = "output_norm.weight";

/// A tensor whose content is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unhashed {
    pub(super) name: String,
    pub(super) place: TensorPlace,
    pub(super) type_id: u32,
    pub(super) dims: Vec<u64>,
    /// Bytes of the file.
    pub(super) range: Range<usize>,
    /// Elements of a matrix, each one multiply-add a token; none for vectors.
    pub(super) macs: u64,
}

/// A tensor of an opened model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    pub(super) facts: Unhashed,
    pub(super) hash: ContentHash,
}

impl StoredTensor {
    /// Name in the file.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Bytes as stored.
    pub fn n_bytes(&self) -> u64 {
        self.facts.range.len() as u64
    }

    /// BLAKE3 of these bytes.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    pub(super) fn to_manifest(&self) -> ManifestTensor {
        ManifestTensor {
            name: self.facts.name.clone(),
            type_id: self.facts.type_id,
            dims: self.facts.dims.clone(),
            n_bytes: self.n_bytes(),
            hash: self.hash,
        }
    }
}

/// Reads the table of a file and refuses one that no span could be run from.
pub(super) fn unhashed(gguf: &Gguf<'_>, shape: &ModelShape) -> Result<Vec<Unhashed>, StoreError> {
    for name in [EMBEDDING, OUTPUT_NORM] {
        if gguf.tensor(name).is_none() {
            return Err(StoreError::MissingTensor { name });
        }
    }
    let mut has_tensors = vec![false; shape.n_layers as usize];
    let mut tensors = Vec::with_capacity(gguf.tensors().len());
    for tensor in gguf.tensors() {
        let place = span_of(tensor.name);
        if let TensorPlace::Layer(i) = place
            && let Some(layer) = has_tensors.get_mut(i as usize)
        {
            *layer = true;
        }
        // The parser found both ends inside the mapped file.
        let start = tensor.offset as usize;
        let is_matrix = tensor.dims.n_rows() > 1;
        tensors.push(Unhashed {
            name: tensor.name.to_owned(),
            place,
            type_id: tensor.ty.id(),
            dims: tensor.dims.as_slice().to_vec(),
            range: start..start + tensor.n_bytes as usize,
            macs: if is_matrix {
                tensor.dims.n_elements()
            } else {
                0
            },
        });
    }
    match has_tensors.iter().zip(0..).find(|(has, _)| !**has) {
        Some((_, layer)) => Err(StoreError::MissingLayer {
            layer,
            n_layers: shape.n_layers,
        }),
        None => Ok(tensors),
    }
}

/// All tensors of a model.
#[derive(Debug)]
pub(super) struct TensorTable {
    tensors: Vec<StoredTensor>,
    tied_output: bool,
}

impl TensorTable {
    /// `hashes` are those of `tensors`, in the same order.
    pub(super) fn new(tensors: Vec<Unhashed>, hashes: Vec<ContentHash>) -> TensorTable {
        assert_eq!(tensors.len(), hashes.len(), "one hash for each tensor");
        let tied_output = tensors.iter().all(|tensor| tensor.name != OUTPUT);
        let tensors = tensors
            .into_iter()
            .zip(hashes)
            .map(|(facts, hash)| StoredTensor { facts, hash })
            .collect();
        TensorTable {
            tensors,
            tied_output,
        }
    }

    pub(super) fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The embedding is also the output matrix.
    pub(super) fn tied_output(&self) -> bool {
        self.tied_output
    }

    /// Tensors of `place`.
    pub(super) fn at(&self, place: TensorPlace) -> impl Iterator<Item = &StoredTensor> {
        self.tensors
            .iter()
            .filter(move |tensor| tensor.facts.place == place)
    }

    /// What a worker with `layers` of `n_layers` needs, in file order, each tensor once.
    pub(super) fn span(&self, layers: &Range<u32>, n_layers: u32) -> Vec<ManifestTensor> {
        let (first, last) = (layers.start == 0, layers.end == n_layers);
        let needed = |place| match place {
            TensorPlace::Layer(i) => layers.contains(&i),
            TensorPlace::Embedding => first || (last && self.tied_output),
            TensorPlace::Head => last,
            TensorPlace::Shared => true,
            TensorPlace::Other => false,
        };
        let tensors = self.tensors.iter();
        tensors
            .filter(|tensor| needed(tensor.facts.place))
            .map(StoredTensor::to_manifest)
            .collect()
    }
}
