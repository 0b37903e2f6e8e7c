//! Cost of a parallel loop: `cargo run -p potluck-kernels --release --example pool_bench`.
//!
//! Nanoseconds of a loop of two empty items a thread, one straight after another, as in a layer; and with a pause before each that is
//! shorter or longer than threads stay awake for.

use std::hint::black_box;
use std::time::{Duration, Instant};

use potluck_kernels::Pool;

const ROUNDS: usize = 15;

fn main() {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("threads pause us  loop ns");
    for n_threads in [1, 2, 4, n_cores] {
        let pool = Pool::new(n_threads);
        for pause in [0, 20, 500] {
            let n_loops = if pause == 0 { 10_000 } else { 300 };
            let mut times: Vec<f64> = (0..ROUNDS)
                .map(|_| nanoseconds(&pool, n_loops, Duration::from_micros(pause)))
                .collect();
            times.sort_by(f64::total_cmp);
            println!("{n_threads:7} {pause:8} {:8.0}", times[ROUNDS / 2]);
        }
    }
}

/// Of one loop.
fn nanoseconds(pool: &Pool, n_loops: usize, pause: Duration) -> f64 {
    let mut spent = Duration::ZERO;
    for _ in 0..n_loops {
        let waiting = Instant::now();
        while waiting.elapsed() < pause {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        pool.for_each(2 * pool.n_threads(), |item| {
            black_box(item);
        });
        spent += start.elapsed();
    }
    spent.as_secs_f64() * 1e9 / n_loops as f64
}
