//! One tensor on its way to the disk: pieces arrive in any order and are written in theirs. Who sent which is kept until the
//! tensor is known to be right, so that whoever sent wrong bytes is known as well.

use std::collections::BTreeMap;

use super::cache::{CacheError, PartFile, TensorFile};
use super::pieces::SourceIndex;

/// A tensor that is open.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Away while it is written to.
    file: Option<PartFile>,
    /// Bytes that were there when it was opened: of whom is not known.
    pub resumed_bytes: u64,
    /// Pieces by offset, which have arrived and are not written.
    held: BTreeMap<u64, (SourceIndex, Vec<u8>)>,
    /// What was written, in order.
    written: Vec<Written>,
}

/// Bytes that a source has sent, as they were.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub source: SourceIndex,
    offset: u64,
    pub n_bytes: u64,
    hash: blake3::Hash,
}

/// Pieces that follow on one another, and the file that they belong at the end of.
#[derive(Debug)]
pub(super) struct Batch {
    file: PartFile,
    pieces: Vec<(SourceIndex, Vec<u8>)>,
}

/// What can be done with a tensor now.
#[derive(Debug)]
pub(super) enum Work {
    /// Write these.
    Write(Batch),
    /// Everything is written: see whether it is right.
    Finish(PartFile),
}

impl Arriving {
    pub fn new(file: PartFile) -> Arriving {
        Arriving {
            resumed_bytes: file.len(),
            file: Some(file),
            held: BTreeMap::new(),
            written: Vec::new(),
        }
    }

    /// A piece has arrived.
    pub fn hold(&mut self, offset: u64, source: SourceIndex, bytes: Vec<u8>) {
        self.held.insert(offset, (source, bytes));
    }

    /// What to do next with a tensor of `n_bytes`, if anything can be done.
    pub fn work(&mut self, n_bytes: u64) -> Option<Work> {
        let file = self.file.take()?;
        if file.len() == n_bytes {
            return Some(Work::Finish(file));
        }
        let (mut end, mut pieces) = (file.len(), Vec::new());
        while let Some((source, bytes)) = self.held.remove(&end) {
            end += bytes.len() as u64;
            pieces.push((source, bytes));
        }
        if pieces.is_empty() {
            self.file = Some(file);
            return None;
        }
        Some(Work::Write(Batch { file, pieces }))
    }

    /// Pieces were written. Returns how many bytes of the tensor are there.
    pub fn wrote(&mut self, file: PartFile, written: Vec<Written>) -> u64 {
        self.written.extend(written);
        let len = file.len();
        self.file = Some(file);
        len
    }

    /// Who sent what.
    pub fn into_written(self) -> Vec<Written> {
        self.written
    }

    /// The source that all bytes came from, if it was one.
    pub fn only_source(&self) -> Option<SourceIndex> {
        let first = self.written.first()?.source;
        let is_one = self.written.iter().all(|piece| piece.source == first);
        (is_one && self.resumed_bytes == 0).then_some(first)
    }
}

impl Batch {
    /// Blocks.
    pub fn write(mut self) -> Result<(PartFile, Vec<Written>), CacheError> {
        let mut written = Vec::with_capacity(self.pieces.len());
        for (source, bytes) in &self.pieces {
            written.push(Written {
                source: *source,
                offset: self.file.len(),
                n_bytes: bytes.len() as u64,
                hash: blake3::hash(bytes),
            });
            self.file.append(bytes)?;
        }
        Ok((self.file, written))
    }
}

/// Who sent other bytes than those of the right tensor. Blocks.
pub(super) fn who_lied(
    right: &TensorFile,
    written: &[Written],
) -> Result<Vec<SourceIndex>, CacheError> {
    let mut liars = Vec::new();
    for piece in written {
        let bytes = right.read(piece.offset..piece.offset + piece.n_bytes)?;
        if blake3::hash(&bytes) != piece.hash {
            liars.push(piece.source);
        }
    }
    liars.sort_unstable();
    liars.dedup();
    Ok(liars)
}
