//! One run of the program: started with an environment of its own, watched, and never left behind.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sysinfo::{ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};
use tempfile::TempDir;

use crate::binary::potluck;
use crate::models;
use crate::transcript::{Silence, Stream, Transcript};

/// How long anything may take that has no promise of its own: a loaded CI machine with two cores is slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// The loopback interface.
const LOOPBACK: &str = if cfg!(target_os = "macos") {
    "lo0"
} else {
    "lo"
};

/// A run of the program that has not begun.
pub struct Invocation {
    command: Command,
    words: String,
    state: TempDir,
}

/// The program with arguments, in an environment where only what a test says is set.
pub fn invoke<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Invocation {
    invoke_by(Command::new(potluck()), arguments).env("POTLUCK_INTERFACE", LOOPBACK)
}

/// The same, by a command that ends in the program: `ip netns exec HOST potluck`, say. It may use every interface that is there.
pub fn invoke_by<A: AsRef<OsStr>>(
    mut command: Command,
    arguments: impl IntoIterator<Item = A>,
) -> Invocation {
    let state = tempfile::tempdir().expect("a folder for the state");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POTLUCK_") {
            command.env_remove(name);
        }
    }
    command
        .env("POTLUCK_CACHE", models::cache())
        .env("POTLUCK_STATE", state.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .args(arguments);
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let words = format!("potluck {}", words.join(" "));
    Invocation {
        command,
        words,
        state,
    }
}

impl Invocation {
    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|err| panic!("{} cannot be started: {err}", self.words));
        let transcript = Transcript::default();
        transcript.take_down(Stream::Stdout, child.stdout.take().expect("a pipe"));
        transcript.take_down(Stream::Stderr, child.stderr.take().expect("a pipe"));
        Running {
            child,
            words: self.words,
            transcript,
            _state: self.state,
        }
    }

    /// Runs it to its end.
    pub fn finish(self) -> Finished {
        self.start().finish(PATIENCE)
    }
}

/// A run to its end.
#[derive(Debug)]
pub struct Finished {
    pub words: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The run, which must have gone well.
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "this went wrong: {self:#?}");
        self
    }

    /// What was printed, which must be JSON and the run have gone well.
    pub fn json(self) -> Value {
        let done = self.succeeded();
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|err| panic!("this is not JSON ({err}): {done:#?}"))
    }

    /// What it said when it refused. It must have ended by itself, with a code that says so and not by breaking down.
    pub fn refusal(self) -> String {
        assert_eq!(
            self.status.code(),
            Some(1),
            "this is not a refusal: {self:#?}"
        );
        assert!(self.stderr.starts_with("error: "), "no sentence: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self.stderr
    }
}

/// A running process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    words: String,
    transcript: Transcript,
    _state: TempDir,
}

impl Running {
    /// What it says.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let status = self.wait(limit);
        // Its children may hold the pipes a moment longer; what it said itself is complete when they close.
        let _ = self.transcript.wait_for(usize::MAX, PATIENCE, |_| Some(()));
        Finished {
            words: std::mem::take(&mut self.words),
            status,
            stdout: self.transcript.text(Stream::Stdout),
            stderr: self.transcript.text(Stream::Stderr),
        }
    }

    /// Waits for its end, which must come in time.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(None) => self.give_up("it has not ended", limit),
                Err(err) => panic!("{}: {err}", self.words),
            }
        }
    }

    /// Waits for a line after place `since`. `what` says in a panic's message what was missing.
    pub fn line<T>(
        &self,
        what: &str,
        since: usize,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> (T, Instant) {
        let found = self.transcript.wait_for(since, limit, |line| {
            wanted(&line.text).map(|found| (found, line.at))
        });
        found.unwrap_or_else(|silence| match silence {
            Silence::TimedOut => self.give_up(&format!("it has not said {what}"), limit),
            Silence::Ended => self.give_up(&format!("it ended and had not said {what}"), limit),
        })
    }

    /// Waits for the event `kind` of `--json` after place `since`.
    pub fn event(&self, kind: &str, since: usize, limit: Duration) -> (Value, Instant) {
        self.line(&format!("the event {kind}"), since, limit, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == kind).then_some(event)
        })
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|err| panic!("no {signal:?} for {}: {err}", self.words));
    }

    /// Ends it at once, as a power cut would, and waits until the system has buried it.
    pub fn kill(&mut self) {
        self.child
            .kill()
            .unwrap_or_else(|err| panic!("{} cannot be killed: {err}", self.words));
        self.wait(PATIENCE);
    }

    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let pid = sysinfo::Pid::from_u32(self.child.id());
        let mut system = System::new().expect("a system that lists its processes");
        let kind = ProcessRefreshKind::nothing().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        let process = system.process(pid);
        let process = process.unwrap_or_else(|| panic!("{} has ended", self.words));
        Duration::from_millis(process.accumulated_cpu_time())
    }

    /// The processes that it started.
    pub fn children(&self) -> Vec<sysinfo::Pid> {
        let parent = sysinfo::Pid::from_u32(self.child.id());
        let system = processes();
        let children = system
            .processes()
            .values()
            .filter(|process| process.parent() == Some(parent) && process.thread_kind().is_none());
        children.map(sysinfo::Process::pid).collect()
    }

    fn give_up(&self, what: &str, limit: Duration) -> ! {
        let (out, err) = (
            self.transcript.text(Stream::Stdout),
            self.transcript.text(Stream::Stderr),
        );
        panic!(
            "{}: {what} within {limit:?}\nstdout:\n{out}\nstderr:\n{err}",
            self.words
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self.child.kill() {
            Err(err) if err.kind() != ErrorKind::InvalidInput => eprintln!("{}: {err}", self.words),
            _ => {}
        }
        let _ = self.child.wait();
    }
}

/// Waits until none of these processes is left. One that has ended and only waits to be buried is gone.
pub fn wait_until_gone(pids: &[sysinfo::Pid], limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let system = processes();
        let alive = |pid: &&sysinfo::Pid| {
            system
                .process(**pid)
                .is_some_and(|process| process.status() != ProcessStatus::Zombie)
        };
        let left: Vec<_> = pids.iter().filter(alive).collect();
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "processes {left:?} were left behind"
        );
        std::thread::sleep(POLL);
    }
}

fn processes() -> System {
    let mut system = System::new().expect("a system that lists its processes");
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, ProcessRefreshKind::nothing());
    system
}
