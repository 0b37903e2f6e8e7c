//! `potluck worker`: lend this machine.

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use potluck_worker::node::Node;
use tokio::io::AsyncReadExt;

use crate::flags::{MachineFlags, NetworkFlags};
use crate::setup::local_worker::{host_name, node_config};
use crate::setup::{network, signal};

/// Wait for a coordinator and compute the layers it gives. Needs no model file: the tensors of the layers are fetched from
/// the coordinator, checked, and kept for the next time.
#[derive(ClapArgs)]
pub struct Args {
    /// Name shown to people [default: the name of this machine]
    #[arg(long, env = "POTLUCK_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Address and port to listen on; only this machine's own while links between nodes are not encrypted
    #[arg(
        long,
        env = "POTLUCK_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7461"
    )]
    listen: SocketAddr,
    /// Print what this worker offers as one JSON object when it is ready
    #[arg(long)]
    json: bool,
    /// End when standard input closes: for a program that starts workers of its own
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    network: NetworkFlags,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let advertise = network::mdns_allowed(&args.network)?;
    let name = args.name.unwrap_or_else(host_name);
    let config = node_config(
        name.clone(),
        args.listen,
        &args.machine,
        &args.network.cluster,
        advertise,
    )?;
    let n_threads = config.n_threads;
    let node = signal::interruptible(async { Ok(Node::bind(config).await?) }).await?;
    let (address, speed, budget_bytes) =
        (node.address()?, node.speed(), node.memory_budget_bytes());
    if args.json {
        let offer = serde_json::json!({
            "name": name,
            "id": node.id().to_string(),
            "address": address.to_string(),
            "cluster": args.network.cluster,
            "threads": n_threads,
            "memory_budget_bytes": budget_bytes,
            "weight_bytes_per_second": speed.weight_bytes_per_second,
            "macs_per_second": speed.macs_per_second,
        });
        println!("{offer}");
    } else {
        println!(
            "worker {name} listens on {address} and waits for a coordinator of cluster `{}`",
            args.network.cluster
        );
        println!(
            "it offers {:.1} GiB of memory and {n_threads} threads ({:.1} GB/s of weights, {:.0} GMAC/s)",
            budget_bytes as f64 / f64::from(1 << 30),
            speed.weight_bytes_per_second / 1e9,
            speed.macs_per_second / 1e9,
        );
    }
    let end = async {
        tokio::select! {
            () = signal::asked_to_end() => {}
            () = stdin_closed(), if args.exit_with_stdin => {}
        }
    };
    node.serve(end).await?;
    Ok(())
}

/// Completes when nobody holds the other end of standard input any more.
async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while !matches!(stdin.read(&mut buffer).await, Ok(0) | Err(_)) {}
}
