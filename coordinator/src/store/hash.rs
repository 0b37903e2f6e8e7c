//! BLAKE3 of every tensor, with all cores: a file of many gigabytes is hashed as fast as it can be read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use potluck_proto::ContentHash;

use super::table::Unhashed;

/// Bytes hashed between two reports: a few milliseconds of work.
const REPORT_BYTES: usize = 8 << 20;

/// Threads beyond which reading is the limit on every machine.
const MAX_THREADS: usize = 16;

/// How far hashing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashProgress {
    /// Bytes hashed.
    pub done_bytes: u64,
    /// Bytes to hash.
    pub total_bytes: u64,
}

/// Hashes all `tensors` of `file`, in the same order.
pub(super) fn all(
    file: &[u8],
    tensors: &[Unhashed],
    progress: &mut dyn FnMut(HashProgress),
) -> Vec<ContentHash> {
    let total_bytes = tensors.iter().map(|t| t.range.len() as u64).sum();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Largest first, so that no thread starts on an output matrix when the others are done.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tensors[i].range.len()));

    let next = AtomicUsize::new(0);
    let mut hashes = vec![ContentHash([0; 32]); tensors.len()];
    let mut done_bytes = 0;
    std::thread::scope(|scope| {
        let (reports, arrivals) = mpsc::channel();
        for _ in 0..n_threads.clamp(1, MAX_THREADS) {
            let (reports, next, order) = (reports.clone(), &next, &order);
            scope.spawn(move || {
                while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = file.get(tensors[i].range.clone()).unwrap_or_default();
                    hash_one(i, bytes, &reports);
                }
            });
        }
        drop(reports);
        for report in arrivals {
            match report {
                Report::Bytes(n) => {
                    done_bytes += n as u64;
                    progress(HashProgress {
                        done_bytes,
                        total_bytes,
                    });
                }
                Report::Done(i, hash) => hashes[i] = hash,
            }
        }
    });
    hashes
}

enum Report {
    Bytes(usize),
    Done(usize, ContentHash),
}

fn hash_one(i: usize, bytes: &[u8], reports: &mpsc::Sender<Report>) {
    let mut hasher = blake3::Hasher::new();
    // The receiver lives as long as any sender, so sending cannot fail.
    for piece in bytes.chunks(REPORT_BYTES) {
        hasher.update(piece);
        let _ = reports.send(Report::Bytes(piece.len()));
    }
    let _ = reports.send(Report::Done(i, ContentHash(hasher.finalize().into())));
}
