#!/usr/bin/env bash
# Build the kernels for 64-bit ARM and run all their tests in an emulator: as CPUs whose best tier is plain NEON, the one with dot
# products of bytes, and the one with products of matrices.
#
# CARGO, RUSTC, LINKER and QEMU name the tools where those on the PATH will not do. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
cargo=${CARGO:-cargo}
rustc=${RUSTC:-rustc}
linker=${LINKER:-aarch64-linux-gnu-gcc}
qemu=${QEMU:-qemu-aarch64}

need() {
    echo "$1 is missing: $2" >&2
    exit 1
}
command -v "$linker" > /dev/null ||
    need "$linker" "install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, or set LINKER"
command -v "$qemu" > /dev/null ||
    need "$qemu" "install qemu-user, or set QEMU"
[ -d "$("$rustc" --print target-libdir --target "$target")" ] ||
    need "Rust's standard library for $target" \
        "run rustup target add $target; or install Debian's rustc-web, cargo-web and libstd-rust-web-dev:arm64, and set CARGO and RUSTC"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$linker
# Static, because an emulated loader may find libraries of another version than its own, and then threads hang.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
for best in cortex-a72:neon cortex-a76:dotprod max:i8mm; do
    cpu=${best%:*}
    export POTLUCK_ISA=${best#*:} # a test fails if the CPU has no such tier
    echo "as a $cpu, $POTLUCK_ISA:"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu -cpu $cpu" \
        "$cargo" test --release -p potluck-kernels --tests --target "$target" "$@"
done
