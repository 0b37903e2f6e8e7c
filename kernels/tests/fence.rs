//! The fence behind every buffer of these tests holds.
#![cfg(all(unix, not(no_fence)))]

mod common;

use common::Rng;

/// How a process that did `act` in a copy of this one ended: the signal that killed it, if one did.
fn signal_of(act: impl FnOnce()) -> Option<i32> {
    // SAFETY: the copy has one thread, and does nothing that needs a lock which another one may have held.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let no_core = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: as above. Rust's own handler would look for an overflow of the stack first, and a file of the memory is of no use.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &no_core);
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
        act();
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a process of our own, and a place for how it ended.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// Read and write the byte at `at`, inside the buffer or not.
fn touch(bytes: &mut [u8], at: usize) {
    let place = bytes.as_mut_ptr().wrapping_add(at);
    // SAFETY: none behind the buffer, which is what is tested; only processes that may die of it do that.
    unsafe { place.write_volatile(place.read_volatile()) };
}

#[track_caller]
fn check_fence(bytes: &mut [u8]) {
    let len = bytes.len();
    assert_eq!(signal_of(|| touch(bytes, len - 1)), None, "{len} bytes");
    for behind in [0, 4095] {
        let signal = signal_of(|| touch(bytes, len + behind));
        let is_fault = matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS));
        assert!(is_fault, "{behind} bytes behind {len}: {signal:?}");
    }
}

#[test]
fn a_byte_behind_a_buffer_is_deadly() {
    for len in [1, 52, 4096, 65_536, 1_000_001] {
        check_fence(&mut vec![1; len]);
    }
}

#[test]
fn a_buffer_that_grew_is_fenced_and_keeps_what_it_had() {
    let mut bytes = Vec::new();
    for byte in 0..100_000u32 {
        bytes.push(byte as u8);
    }
    bytes.shrink_to_fit();
    assert!(
        (0..100_000u32)
            .zip(&bytes)
            .all(|(i, byte)| *byte == i as u8)
    );
    check_fence(&mut bytes);
}

#[test]
fn buffers_are_aligned_and_apart() {
    #[repr(align(128))]
    #[derive(Clone)]
    struct Line(u64);
    let mut rng = Rng::new(51);
    let mut buffers: Vec<Vec<Line>> = (1..200)
        .map(|i| vec![Line(i); 1 + rng.below(2000)])
        .collect();
    for i in 0..100 {
        drop(buffers.swap_remove(rng.below(buffers.len())));
        buffers.push(vec![Line(1000 + i); 1 + rng.below(2000)]);
    }
    for buffer in &buffers {
        assert!(buffer.as_ptr().cast::<u8>().align_offset(128) == 0);
        assert!(buffer.iter().all(|line| line.0 == buffer[0].0));
    }
    buffers.sort_by_key(|buffer| buffer[0].0);
    buffers.dedup_by_key(|buffer| buffer[0].0);
    assert_eq!(buffers.len(), 199);
}
