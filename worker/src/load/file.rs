//! Tensors straight out of a model file, for programs that have it.

use std::borrow::Cow;
use std::collections::HashMap;

use potluck_gguf::Gguf;

use super::{LoadError, TensorSource, TensorSpec};

/// A parsed model file as a source of tensors.
pub struct FileSource<'a> {
    gguf: &'a Gguf<'a>,
    specs: HashMap<String, TensorSpec>,
}

impl<'a> FileSource<'a> {
    /// All tensors of the file.
    pub fn new(gguf: &'a Gguf<'a>) -> Self {
        let spec = |tensor: &potluck_gguf::TensorInfo<'_>| TensorSpec {
            type_id: tensor.ty.id(),
            dims: tensor.dims.as_slice().to_vec(),
        };
        let specs = gguf
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.to_owned(), spec(tensor)));
        FileSource {
            gguf,
            specs: specs.collect(),
        }
    }
}

impl TensorSource for FileSource<'_> {
    fn specs(&self) -> &HashMap<String, TensorSpec> {
        &self.specs
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, LoadError> {
        let tensor = self
            .gguf
            .tensor(name)
            .ok_or_else(|| LoadError::MissingTensor(name.to_owned()))?;
        Ok(Cow::Borrowed(self.gguf.tensor_bytes(tensor)))
    }
}
