//! What this machine is and what it can spare.

use potluck_kernels::Isa;
use potluck_proto::{Fence, InstanceId, PROTOCOL, wire};
use std::time::SystemTime;

use potluck_link::authority::unix_seconds;
use sysinfo::System;

use super::NodeConfig;
use crate::load::WeightStorage;
use crate::probe::Speed;

/// Revision of the arithmetic: builds with the same number give the same bits. Raised when a kernel's definition changes.
const ARITHMETIC: u32 = 2;

/// Memory left to the operating system and other programs: a tenth of the machine, within these bounds.
const MIN_RESERVE_BYTES: u64 = 256 << 20;
const MAX_RESERVE_BYTES: u64 = 2 << 30;

/// Facts that do not change while the worker runs.
pub(super) struct Machine {
    pub instance: InstanceId,
    pub speed: Speed,
    name: String,
    isa: Isa,
    n_threads: usize,
    memory_limit_bytes: Option<u64>,
    /// How this worker holds weights.
    pub weights: WeightStorage,
}

impl Machine {
    pub fn new(config: &NodeConfig, isa: Isa, speed: Speed) -> Self {
        Machine {
            instance: InstanceId::random(),
            speed,
            name: config.name.clone(),
            isa,
            n_threads: config.n_threads,
            memory_limit_bytes: config.memory_limit_bytes,
            weights: config.weights,
        }
    }

    /// Bytes that a plan may use now, `in_use_bytes` of which this worker's stage takes already. Where the system does not
    /// tell how much is free, only a limit given by the user counts.
    pub fn memory_budget_bytes(&self, in_use_bytes: u64) -> u64 {
        let Some((available, total)) = memory() else {
            return self.memory_limit_bytes.unwrap_or(0);
        };
        let reserve = (total / 10).clamp(MIN_RESERVE_BYTES, MAX_RESERVE_BYTES);
        if self.weights == WeightStorage::Mapped {
            // What is mapped need not stay in memory, so the user's word counts, and all memory without it.
            return self
                .memory_limit_bytes
                .unwrap_or_else(|| total.saturating_sub(reserve));
        }
        let free = (available + in_use_bytes).saturating_sub(reserve);
        self.memory_limit_bytes
            .map_or(free, |limit| limit.min(free))
    }

    pub fn describe(
        &self,
        in_use_bytes: u64,
        serving: Option<Fence>,
        addresses: Vec<String>,
    ) -> wire::NodeInfo {
        wire::NodeInfo {
            protocol: PROTOCOL,
            instance: bytes::Bytes::copy_from_slice(&self.instance.0),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            isa: self.isa.name().into(),
            arithmetic: ARITHMETIC,
            n_threads: self.n_threads as u32,
            memory_budget_bytes: self.memory_budget_bytes(in_use_bytes),
            memory_total_bytes: memory().map_or(0, |(_, total)| total),
            speed: Some(wire::Speed {
                weight_bytes_per_second: self.speed.weight_bytes_per_second,
                macs_per_second: self.speed.macs_per_second,
            }),
            serving: serving.map(Into::into),
            addresses,
            unix_seconds: unix_seconds(SystemTime::now()),
        }
    }
}

/// Available and total bytes, within the limits of a container.
fn memory() -> Option<(u64, u64)> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(match system.cgroup_limits() {
        Some(limits) if limits.total_memory < system.total_memory() => {
            (limits.free_memory, limits.total_memory)
        }
        _ => (system.available_memory(), system.total_memory()),
    })
}
