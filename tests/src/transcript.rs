//! What a process says while it runs, line by line with the time, so that a test can wait for a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    pub stream: Stream,
    pub at: Instant,
    pub text: String,
}

/// All lines so far, shared with the threads that read them.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<Line>,
    /// Streams that have come to their end.
    n_ended: usize,
}

/// Why a line was waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The process closed its output.
    Ended,
    /// The time was up.
    TimedOut,
}

impl Transcript {
    /// Takes down a stream, in a thread of its own, until its end.
    pub fn take_down(&self, stream: Stream, from: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches('\r')
                    .to_owned();
                let at = Instant::now();
                shared.lock().lines.push(Line { stream, at, text });
                shared.news.notify_all();
            }
            shared.lock().n_ended += 1;
            shared.news.notify_all();
        });
    }

    /// How many lines there are: a place from which to wait for later ones.
    pub fn len(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line from place `since` on that `wanted` recognises, with what it made of it.
    pub fn wait_for<T>(
        &self,
        since: usize,
        limit: Duration,
        mut wanted: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, Silence> {
        let deadline = Instant::now() + limit;
        let (mut said, mut next) = (self.shared.lock(), since);
        loop {
            while let Some(line) = said.lines.get(next) {
                next += 1;
                if let Some(found) = wanted(line) {
                    return Ok(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match () {
                () if said.n_ended == STREAMS => return Err(Silence::Ended),
                () if left.is_zero() => return Err(Silence::TimedOut),
                () => {}
            }
            let waited = self.shared.news.wait_timeout(said, left);
            said = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything said on one stream.
    pub fn text(&self, stream: Stream) -> String {
        let said = self.shared.lock();
        let lines = said.lines.iter().filter(|line| line.stream == stream);
        lines.map(|line| format!("{}\n", line.text)).collect()
    }
}

/// Standard output and standard error.
const STREAMS: usize = 2;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
