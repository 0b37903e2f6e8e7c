//! `potluck worker`: lend this machine.

use std::net::SocketAddr;

use anyhow::bail;
use clap::Args as ClapArgs;
use potluck_coordinator::dirs::cluster_name;
use potluck_link::invite::Invite;
use potluck_worker::node::Node;
use tokio::io::AsyncReadExt;

use crate::flags::{MachineFlags, NetworkFlags};
use crate::setup::joining::{Joining, Membership, memberships};
use crate::setup::local_worker::{Place, WORKER_PORT, host_name, node_config};
use crate::setup::signal;

/// Wait for the coordinator and compute the layers it gives. Needs no model file: the tensors of the layers are fetched from
/// other machines of the cluster, checked, and kept for the next time.
///
/// The machine must have joined a cluster with `potluck join`. With an invite in the variable POTLUCK_INVITE it joins by itself
/// at the first start.
#[derive(ClapArgs)]
pub struct Args {
    /// Name shown to people [default: the one it joined with]
    #[arg(long, env = "POTLUCK_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Which cluster, where the machine belongs to several
    #[arg(long, env = "POTLUCK_CLUSTER", value_name = "NAME", value_parser = cluster_name)]
    cluster: Option<String>,
    /// Address and port to listen on, for other machines of the cluster [default: port 7461 on all addresses]
    #[arg(long, env = "POTLUCK_LISTEN", value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Print what this worker offers as one JSON object when it is ready
    #[arg(long)]
    json: bool,
    /// Join with this invite first. A command line can be read by every user of the machine: use the variable
    #[arg(long, env = "POTLUCK_INVITE", hide = true, hide_env_values = true)]
    invite: Option<String>,
    /// End when standard input closes: for a program that starts workers of its own
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    network: NetworkFlags,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let interfaces = args.network.interfaces()?;
    let Membership {
        local_name: _,
        file,
        member,
        credential,
    } = signal::interruptible(membership(&args)).await?;
    let name = args.name.unwrap_or(member.name);
    let place = Place {
        name: name.clone(),
        listen: args.listen.unwrap_or(interfaces.listen_on(WORKER_PORT)),
        interfaces,
        use_mdns: !args.network.no_mdns,
    };
    let mut config = node_config(place, credential, &args.machine)?;
    config.coordinators = member.coordinators;
    config.member_file = Some(file);
    let n_threads = config.n_threads;
    let node = signal::interruptible(async { Ok(Node::bind(config).await?) }).await?;
    let (address, speed, budget_bytes) =
        (node.address()?, node.speed(), node.memory_budget_bytes());
    if args.json {
        let offer = serde_json::json!({
            "name": name,
            "id": node.id().to_string(),
            "address": address.to_string(),
            "cluster": member.cluster_name,
            "threads": n_threads,
            "memory_budget_bytes": budget_bytes,
            "weight_bytes_per_second": speed.weight_bytes_per_second,
            "macs_per_second": speed.macs_per_second,
        });
        println!("{offer}");
    } else {
        println!(
            "worker {name} listens on {address} and waits for a coordinator of cluster `{}`",
            member.cluster_name
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

/// The cluster to work for.
async fn membership(args: &Args) -> anyhow::Result<Membership> {
    if let Some(invite) = &args.invite {
        join_once(args, invite).await?;
    }
    let mut found = memberships(args.cluster.as_deref())?;
    match (found.pop(), found.is_empty()) {
        (Some(membership), true) => Ok(membership),
        (None, _) => bail!(
            "this machine has joined no cluster yet: run `potluck join INVITE` with the line that `potluck serve` or `potluck invite` \
             prints on the coordinator's machine"
        ),
        (Some(last), false) => {
            let names = found.iter().chain([&last]);
            let names: Vec<_> = names.map(|m| m.local_name.as_str()).collect();
            bail!(
                "this machine belongs to several clusters ({}); say which one with --cluster NAME",
                names.join(", ")
            )
        }
    }
}

/// Joins unless this machine belongs to the invite's cluster already. The coordinator may start later than this.
async fn join_once(args: &Args, invite: &str) -> anyhow::Result<()> {
    let invite: Invite = invite.parse()?;
    let held = memberships(None)?;
    if held
        .iter()
        .any(|held| held.credential.cluster() == invite.cluster())
    {
        return Ok(());
    }
    let name = args.name.clone().unwrap_or_else(host_name);
    let joining = Joining {
        invite: &invite,
        name: &name,
        network: &args.network,
        patience: None,
        replace: false,
    };
    joining.join().await.map(drop)
}

/// Completes when nobody holds the other end of standard input any more.
async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while !matches!(stdin.read(&mut buffer).await, Ok(0) | Err(_)) {}
}
