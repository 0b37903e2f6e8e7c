//! This machine alone: its processor, memory, disk and state.

use std::path::Path;

use potluck_coordinator::dirs;
use potluck_kernels::Isa;
use sysinfo::{Disks, System};

use super::Finding;
use crate::setup::joining::memberships;

/// Free space below which a worker has no room for the layers of even a small model.
const LITTLE_DISK_BYTES: u64 = 5 << 30;

/// Free memory below which layers of few models fit.
const LITTLE_MEMORY_BYTES: u64 = 1 << 30;

/// Everything that needs no network.
pub fn check() -> Vec<Finding> {
    let mut findings = vec![processor(), memory()];
    findings.extend(disk());
    findings.push(state());
    findings
}

fn processor() -> Finding {
    match Isa::from_env() {
        Ok(Isa::Scalar) => Finding::warning(
            "processor",
            format!(
                "the portable code is used, which is slow ({})",
                std::env::consts::ARCH
            ),
            "lend machines with AVX2 or NEON first; POTLUCK_ISA must not be set to scalar",
        ),
        Ok(isa) => Finding::ok(
            "processor",
            format!(
                "{} kernels, {} threads",
                isa.name(),
                std::thread::available_parallelism().map_or(1, usize::from)
            ),
        ),
        Err(error) => Finding::failed("processor", error.to_string(), "unset POTLUCK_ISA"),
    }
}

fn memory() -> Finding {
    let Ok(mut system) = System::new() else {
        return Finding::warning(
            "memory",
            "the system does not say how much is free",
            "give --memory-limit MIB to `potluck worker`",
        );
    };
    system.refresh_memory();
    let (free, total) = (system.available_memory(), system.total_memory());
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let found = format!("{:.1} of {:.1} GiB are free", gib(free), gib(total));
    match free < LITTLE_MEMORY_BYTES {
        true => Finding::warning(
            "memory",
            found,
            "close other programs before lending this machine",
        ),
        false => Finding::ok("memory", found),
    }
}

fn disk() -> Vec<Finding> {
    let folder = match dirs::cache_dir() {
        Ok(folder) => folder,
        Err(error) => {
            return vec![Finding::failed(
                "disk",
                error.to_string(),
                "set POTLUCK_CACHE",
            )];
        }
    };
    if let Err(error) = can_write(&folder) {
        return vec![Finding::failed(
            "disk",
            format!("{} cannot be written: {error}", folder.display()),
            "free space there or change its owner, or set POTLUCK_CACHE to another folder",
        )];
    }
    let Some(free) = free_bytes(&folder) else {
        return Vec::new();
    };
    let gib = free as f64 / f64::from(1 << 30);
    let found = format!("{gib:.1} GiB are free for weights in {}", folder.display());
    vec![match free < LITTLE_DISK_BYTES {
        true => Finding::warning(
            "disk",
            found,
            "free some space, or set POTLUCK_CACHE to another disk",
        ),
        false => Finding::ok("disk", found),
    }]
}

fn can_write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let probe = folder.join(format!("doctor-{}", std::process::id()));
    std::fs::write(&probe, [0; 4096])?;
    std::fs::remove_file(probe)
}

/// Of the disk that a folder is on: the one with the longest mount point that leads to it.
fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = folder.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list().ok()?;
    let on = disks
        .iter()
        .filter(|disk| folder.starts_with(disk.mount_point()));
    on.max_by_key(|disk| disk.mount_point().as_os_str().len())
        .map(|disk| disk.available_space())
}

fn state() -> Finding {
    match memberships(None) {
        Ok(_) => Finding::ok(
            "state",
            "the files with keys are readable by their owner only",
        ),
        Err(error) => Finding::failed("state", format!("{error:#}"), "do what the sentence says"),
    }
}
