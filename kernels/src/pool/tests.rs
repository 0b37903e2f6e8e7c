//! Loops run each item once, survive panics, nest, and cost nothing when idle.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn counts(pool: &Pool, n_items: usize) -> Vec<usize> {
    let counters: Vec<_> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
    pool.for_each(n_items, |item| {
        counters[item].fetch_add(1, Ordering::Relaxed);
    });
    counters.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_item_runs_once() {
    for n_threads in [0, 1, 2, 3, 7] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads.max(1));
        for n_items in [0, 1, 2, 3, 100, 1000] {
            assert_eq!(
                counts(&pool, n_items),
                vec![1; n_items],
                "{n_threads} threads"
            );
        }
    }
}

#[test]
fn many_short_loops() {
    let pool = Pool::new(4);
    let total = AtomicUsize::new(0);
    for _ in 0..20_000 {
        pool.for_each(5, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(total.into_inner(), 100_000);
}

#[test]
fn wakes_helpers_that_sleep() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(1)); // the situation under test: helpers asleep
        assert_eq!(counts(&pool, 64), vec![1; 64]);
    }
}

#[test]
fn chunks_cover_the_slice() {
    let pool = Pool::new(3);
    let mut data = vec![0usize; 1003];
    pool.for_each_chunk(&mut data, 10, |index, chunk| chunk.fill(index + 1));
    assert!(
        data.iter()
            .enumerate()
            .all(|(at, value)| *value == at / 10 + 1)
    );
    pool.for_each_chunk(&mut data[..0], 10, |_, _| {
        panic!("no chunk in an empty slice")
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives() {
    for n_threads in [1, 2, 4] {
        let pool = Pool::new(n_threads);
        for bad in [0, 50, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, |item| assert_ne!(item, bad, "bad item"))
            }));
            assert!(outcome.is_err(), "{n_threads} threads, item {bad}");
            assert_eq!(counts(&pool, 100), vec![1; 100]);
        }
    }
}

#[test]
fn loops_nest() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    pool.for_each(8, |_| {
        pool.for_each(8, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 64);
}

#[test]
fn two_callers_share_a_pool() {
    let pool = Pool::new(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|_| assert_eq!(counts(&pool, 20), vec![1; 20])));
        }
    });
}
