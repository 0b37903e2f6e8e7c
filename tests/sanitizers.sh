#!/usr/bin/env bash
# Run tests under tools that watch memory and threads. Without arguments all of them, or those that are named:
#
#   address   AddressSanitizer: the kernels with every instruction set of this CPU, the reader of model files, the worker.
#   thread    ThreadSanitizer: the kernels and their pool of threads. It builds Rust's standard library, to see into it too.
#   memcheck  Valgrind: the kernels, for memory that is read before it is written. It knows no AVX-512, so they run up to AVX2.
#
# The kernels' tests have an allocator of their own, with a fence behind every buffer. It is left out here: these tools watch the
# system's. TOOLCHAIN names a nightly toolchain of rustup, VALGRIND the tool where that on the PATH will not do.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
toolchain=${TOOLCHAIN:-nightly}
valgrind=${VALGRIND:-valgrind}

need() {
    echo "$1 is missing: $2" >&2
    exit 1
}

# Compiler flags, then arguments of `cargo test`. As a target is named, flags are not for build scripts.
run_tests() {
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="$1 --cfg no_fence" \
        cargo "+$toolchain" test --release --tests --target "$target" "${@:2}"
}

address() {
    run_tests -Zsanitizer=address -p potluck-kernels -p potluck-gguf -p potluck-worker
}

thread() {
    [ -d "$(rustc "+$toolchain" --print sysroot)/lib/rustlib/src/rust/library" ] ||
        need "the source of Rust's standard library" "run rustup component add rust-src --toolchain $toolchain"
    run_tests -Zsanitizer=thread -Zbuild-std -p potluck-kernels
}

memcheck() {
    command -v "$valgrind" > /dev/null || need "$valgrind" "install valgrind, or set VALGRIND"
    # Threads wait by spinning: with fair scheduling those that have work get their turn.
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$valgrind --quiet --error-exitcode=1 --fair-sched=yes" \
        run_tests "" -p potluck-kernels
}

rustc "+$toolchain" --version > /dev/null ||
    need "a nightly toolchain" "run rustup toolchain install nightly, or set TOOLCHAIN"
[ $# -gt 0 ] || set -- address thread memcheck
for tool in "$@"; do
    echo "under $tool:"
    case $tool in
        address | thread | memcheck) "$tool" ;;
        *) need "the tool $tool" "there are address, thread and memcheck" ;;
    esac
done
