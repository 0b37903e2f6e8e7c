//! What may be mapped: regular files, however they are reached, and nothing else.

use std::path::Path;

use potluck_gguf::{Gguf, GgufError, GgufWriter, Mapped, TensorType};

#[test]
fn a_file_is_mapped_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let written = GgufWriter::new()
        .with_tensor("t", TensorType::F32, &[4], vec![7; 16])
        .unwrap()
        .to_bytes();
    std::fs::write(&path, &written).unwrap();
    let mapped = Mapped::open(&path).unwrap();
    assert_eq!((mapped.bytes(), mapped.path()), (&written[..], &*path));
    let gguf = Gguf::parse(mapped.bytes()).unwrap();
    assert_eq!(gguf.tensor_bytes(&gguf.tensors()[0]), [7; 16]);
}

#[test]
fn an_empty_file_is_no_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mapped = Mapped::open(file.path()).unwrap();
    assert!(mapped.bytes().is_empty());
    assert!(matches!(
        Gguf::parse(mapped.bytes()),
        Err(GgufError::Truncated { .. })
    ));
}

#[test]
fn a_missing_file_is_named() {
    let error = Mapped::open(Path::new("no-such-folder/model.gguf")).unwrap_err();
    assert!(matches!(error, GgufError::Io { .. }));
    assert!(
        error.to_string().contains("no-such-folder/model.gguf"),
        "{error}"
    );
}

#[test]
fn a_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        Mapped::open(folder.path()),
        Err(GgufError::NotARegularFile { .. })
    ));
}

#[cfg(unix)]
#[test]
fn a_device_is_refused() {
    assert!(matches!(
        Mapped::open(Path::new("/dev/zero")),
        Err(GgufError::NotARegularFile { .. })
    ));
}

/// Opening a pipe would wait for a writer; refusing it must not.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(
        Mapped::open(&path),
        Err(GgufError::NotARegularFile { .. })
    ));
}

#[cfg(unix)]
#[test]
fn a_link_leads_to_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("blob"), folder.path().join("model.gguf"));
    std::fs::write(&target, b"GGUF").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(Mapped::open(&link).unwrap().bytes(), b"GGUF");
}
