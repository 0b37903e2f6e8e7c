//! The gate through which helpers enter a loop: who may be inside, and how threads wait on both sides of it.
//!
//! One word holds the generation of the loop, whether it still takes helpers, and how many are inside. Waiting is a short
//! spin, then a few yields, then sleep, so that an idle pool costs nothing and a busy one reacts at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a thread spins before it yields: longer than the serial work between two loops of one token, shorter than
/// what another process would miss.
const SPIN_TIME: Duration = Duration::from_micros(60);
/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 32;
/// Yields between the spin and sleep: they hand the core to whoever needs it.
const YIELDS: u32 = 4;

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const GENERATION_SHIFT: u32 = 32;

/// Admission of helpers to loops. Generations count from 1 and wrap around after 2^32 loops, which no helper sleeps through.
#[repr(align(128))]
pub(super) struct Gate {
    word: AtomicU64,
    stopped: AtomicBool,
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
    helpers: Vec<Helper>,
}

/// One helper's bed.
#[derive(Default)]
struct Helper {
    sleeps: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Gate {
    pub(super) fn new(n_helpers: usize) -> Gate {
        Gate {
            word: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
            helpers: (0..n_helpers).map(|_| Helper::default()).collect(),
        }
    }

    /// Let helpers in to a new loop and wake at most `n_wanted` of those asleep.
    pub(super) fn open(&self, n_wanted: usize) {
        let generation = (self.word.load(Ordering::Relaxed) >> GENERATION_SHIFT) + 1;
        // Sequentially consistent, as is the helper's `sleeps`: one of the two sees the other's store.
        self.word
            .store(generation << GENERATION_SHIFT | OPEN, Ordering::SeqCst);
        for helper in self.helpers.iter().take(n_wanted) {
            helper.wake();
        }
    }

    /// Let nobody else in, and wait until everyone inside has left.
    pub(super) fn close_and_wait(&self) {
        self.word.fetch_and(!OPEN, Ordering::SeqCst);
        let empty = || self.word.load(Ordering::SeqCst) & INSIDE == 0;
        if wait_awake(empty) {
            return;
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        while !empty() {
            self.caller_sleeps.store(true, Ordering::SeqCst);
            if empty() {
                break;
            }
            std::thread::park();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// Enter the loop `generation`; false if it takes no more helpers.
    pub(super) fn enter(&self, generation: u64) -> bool {
        let admit = |word: u64| {
            (word >> GENERATION_SHIFT == generation && word & OPEN != 0).then_some(word + 1)
        };
        self.word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, admit)
            .is_ok()
    }

    pub(super) fn leave(&self) {
        let word = self.word.fetch_sub(1, Ordering::SeqCst) - 1;
        let last = word & (OPEN | INSIDE) == 0;
        if last && self.caller_sleeps.swap(false, Ordering::SeqCst) {
            let caller = self
                .caller
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            caller.inspect(Thread::unpark);
        }
    }

    /// Wait until there is a loop other than `seen` and return its generation; `None` once the pool is being dropped.
    pub(super) fn wait_for_next(&self, index: usize, seen: u64) -> Option<u64> {
        let news = || self.stopped.load(Ordering::SeqCst) || self.generation() != seen;
        if !wait_awake(news) {
            self.helpers[index].sleep_until(news);
        }
        (!self.stopped.load(Ordering::SeqCst)).then(|| self.generation())
    }

    /// Send every helper home.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.helpers.iter().for_each(Helper::wake);
    }

    fn generation(&self) -> u64 {
        self.word.load(Ordering::SeqCst) >> GENERATION_SHIFT
    }
}

impl Helper {
    fn wake(&self) {
        if self.sleeps.swap(false, Ordering::SeqCst) {
            let thread = self
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            thread.inspect(Thread::unpark);
        }
    }

    fn sleep_until(&self, news: impl Fn() -> bool) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        loop {
            self.sleeps.store(true, Ordering::SeqCst);
            if news() {
                break;
            }
            std::thread::park();
        }
        self.sleeps.store(false, Ordering::SeqCst);
    }
}

/// Spin, then yield, until `done`; false if it takes longer than a thread should stay awake for.
fn wait_awake(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < SPIN_TIME {
        for _ in 0..SPINS_PER_LOOK {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
    }
    for _ in 0..YIELDS {
        if done() {
            return true;
        }
        std::thread::yield_now();
    }
    done()
}
