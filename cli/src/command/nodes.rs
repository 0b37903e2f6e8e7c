//! `potluck nodes`: the workers that can be found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use potluck_coordinator::cluster::{describe, discover};
use potluck_proto::{NodeId, wire};

use crate::flags::{JoinFlags, NetworkFlags};
use crate::setup::{network, signal};

/// List the workers that answer: found by mDNS, or named with --join.
#[derive(ClapArgs)]
pub struct Args {
    /// How long to look, in seconds
    #[arg(
        long,
        env = "POTLUCK_WAIT",
        value_name = "SECONDS",
        default_value_t = 2.0
    )]
    wait: f64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    join: JoinFlags,
}

/// A worker that answered.
pub struct Answered {
    pub node: NodeId,
    pub address: SocketAddr,
    pub info: wire::NodeInfo,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let wait = Duration::try_from_secs_f64(args.wait)
        .with_context(|| format!("--wait {} is no time", args.wait))?;
    let workers = signal::interruptible(find(&args.network, &args.join.join, wait)).await?;
    if args.json {
        println!(
            "{:#}",
            serde_json::Value::Array(workers.iter().map(as_json).collect())
        );
        return Ok(());
    }
    if workers.is_empty() {
        eprintln!(
            "no worker of cluster `{}` was found; start one with `potluck worker`",
            args.network.cluster
        );
    }
    for worker in &workers {
        println!("{}", line(worker));
    }
    Ok(())
}

/// Everyone who answers within `wait`.
pub async fn find(
    network_flags: &NetworkFlags,
    join: &[SocketAddr],
    wait: Duration,
) -> anyhow::Result<Vec<Answered>> {
    for address in join {
        potluck_proto::reach::require_loopback("the worker to join", address.ip())?;
    }
    let mut addresses: Vec<SocketAddr> = join.to_vec();
    if network::mdns_allowed(network_flags)? {
        let mut discovery = discover(&network_flags.cluster)?;
        let collect = async {
            while let Some(found) = discovery.next().await {
                if !addresses.contains(&found.address) {
                    addresses.push(found.address);
                }
            }
        };
        // The time is up: that is how a search ends.
        let _ = tokio::time::timeout(wait, collect).await;
    }
    let mut workers = BTreeMap::new();
    for address in addresses {
        match describe(address).await {
            Ok((node, info)) => {
                workers.insert(
                    (info.name.clone(), node),
                    Answered {
                        node,
                        address,
                        info,
                    },
                );
            }
            Err(err) => eprintln!("warning: {err}"),
        }
    }
    Ok(workers.into_values().collect())
}

fn line(worker: &Answered) -> String {
    let info = &worker.info;
    let speed = info.speed.unwrap_or_default();
    format!(
        "{}  {}  {} {}  {} threads  {:.1} GiB  {:.1} GB/s  {:.0} GMAC/s  version {}{}",
        info.name,
        worker.address,
        info.platform,
        info.isa,
        info.n_threads,
        info.memory_budget_bytes as f64 / f64::from(1 << 30),
        speed.weight_bytes_per_second / 1e9,
        speed.macs_per_second / 1e9,
        info.version,
        if info.serving.is_some() {
            "  serving"
        } else {
            ""
        },
    )
}

fn as_json(worker: &Answered) -> serde_json::Value {
    let info = &worker.info;
    let speed = info.speed.unwrap_or_default();
    serde_json::json!({
        "id": worker.node.to_string(),
        "name": info.name,
        "address": worker.address.to_string(),
        "platform": info.platform,
        "isa": info.isa,
        "arithmetic": info.arithmetic,
        "threads": info.n_threads,
        "memory_budget_bytes": info.memory_budget_bytes,
        "memory_total_bytes": info.memory_total_bytes,
        "weight_bytes_per_second": speed.weight_bytes_per_second,
        "macs_per_second": speed.macs_per_second,
        "version": info.version,
        "protocol": info.protocol,
        "serving": info.serving.is_some(),
    })
}
