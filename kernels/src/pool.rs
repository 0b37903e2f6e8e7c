//! A pool of persistent threads and the parallel loop the kernels run on. Knows nothing of what the items compute.
//!
//! The caller takes part. Items are claimed one at a time from a counter, so a slow core takes fewer. A thread that is
//! asleep when a loop starts is woken, but a loop that ends before it arrives does not wait for it: on a machine with
//! more runnable threads than cores nobody stands still for a thread the system has not scheduled.
#![allow(unsafe_code)]

mod disjoint;
mod gate;

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub(crate) use disjoint::Disjoint;
use gate::Gate;

/// The most threads a pool will start: more than any machine this is meant for has cores.
const MAX_THREADS: usize = 256;

/// Persistent threads that run loops together with the thread that asks for them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// The loop body of the loop in progress, its lifetime erased.
type Task = *const (dyn Fn(usize) + Sync);

#[derive(Clone, Copy)]
struct Job {
    task: Task,
    n_items: usize,
}

struct Shared {
    gate: Gate,
    /// Written by the caller while the gate is closed and nobody is inside, read by threads inside.
    job: UnsafeCell<Option<Job>>,
    next: Next,
    /// Set while a loop runs; a second loop meanwhile runs on its own thread alone.
    busy: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The next item to claim, on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Next(AtomicUsize);

// SAFETY: `job` holds a pointer to a `Sync` closure. It is written only by the owner of `busy` while no thread is inside
// the gate, and read only by threads inside, which the owner outwaits before it returns from `for_each`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `n_threads` threads, the caller of its loops counted among them; 0 is taken as 1. Where the system
    /// refuses to start that many threads the pool has fewer: see [`Pool::n_threads`].
    pub fn new(n_threads: usize) -> Pool {
        let n_helpers = n_threads.clamp(1, MAX_THREADS) - 1;
        let shared = Arc::new(Shared {
            gate: Gate::new(n_helpers),
            job: UnsafeCell::new(None),
            next: Next::default(),
            busy: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let helpers = (0..n_helpers)
            .map_while(|index| start_helper(&shared, index))
            .collect();
        Pool { shared, helpers }
    }

    /// Threads that take part in a loop, the caller included.
    pub fn n_threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Run `body(0)`, …, `body(n_items - 1)`, each once, on all threads, in no particular order, and return when all
    /// are done. A loop started from inside a body, or while another thread's loop runs, runs on its own thread alone.
    ///
    /// # Panics
    /// If a body panics the first panic is thrown on to the caller once every thread has left the loop; items not yet
    /// started may be skipped. The pool stays usable.
    pub fn for_each(&self, n_items: usize, body: impl Fn(usize) + Sync) {
        let alone = self.helpers.is_empty() || n_items < 2;
        if alone || self.shared.busy.swap(true, Ordering::Acquire) {
            (0..n_items).for_each(body);
            return;
        }
        let job = self.publish(&body, n_items);
        self.shared.drain(job);
        self.shared.gate.close_and_wait();
        let panic = lock(&self.shared.panic).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Cut `data` into chunks of `chunk_len` (the last may be shorter) and run `body(index, chunk)` for each, on all
    /// threads. A `chunk_len` of 0 is taken as 1.
    pub fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (len, chunk_len) = (data.len(), chunk_len.max(1));
        let parts = Disjoint::new(data);
        self.for_each(len.div_ceil(chunk_len), |index| {
            let start = index * chunk_len;
            // SAFETY: each index is run once, and chunks of different indices do not overlap.
            let chunk = unsafe { parts.slice(start, chunk_len.min(len - start)) };
            body(index, chunk);
        });
    }

    fn publish(&self, body: &(dyn Fn(usize) + Sync), n_items: usize) -> Job {
        // SAFETY: only the lifetime changes. `for_each` does not return, nor unwind, before the gate is closed and
        // empty, and a task is called only by threads inside the gate, so the borrow outlives every use.
        let task: Task =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Task>(body) };
        let job = Job { task, n_items };
        // SAFETY: this thread owns `busy` and the gate is closed and empty, so nobody reads `job` now.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.next.0.store(0, Ordering::Relaxed);
        self.shared.gate.open(n_items - 1);
        job
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.stop();
        for helper in self.helpers.drain(..) {
            // A helper catches its tasks' panics, so it ends without one; there is nothing to do about it here anyway.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Claim and run items until none is left.
    fn drain(&self, job: Job) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let item = self.next.0.fetch_add(1, Ordering::Relaxed);
                if item >= job.n_items {
                    return;
                }
                // SAFETY: the task is alive: this thread is inside the gate, or is the caller that owns the closure.
                unsafe { (*job.task)(item) };
            }
        }));
        if let Err(payload) = result {
            self.next.0.store(job.n_items, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

fn start_helper(shared: &Arc<Shared>, index: usize) -> Option<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let name = format!("kernels-{}", index + 1);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || help(&shared, index))
        .ok()
}

/// The life of a helper: wait for a loop, take part in it, wait for the next.
fn help(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(generation) = shared.gate.wait_for_next(index, seen) {
        seen = generation;
        if shared.gate.enter(generation) {
            // SAFETY: inside the gate `job` is not written.
            let job = unsafe { *shared.job.get() };
            if let Some(job) = job {
                shared.drain(job);
            }
            shared.gate.leave();
        }
    }
}

/// No code panics while it holds these locks, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
