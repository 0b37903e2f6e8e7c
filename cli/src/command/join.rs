//! `potluck join`: make this machine part of a cluster.

use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use potluck_link::invite::Invite;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::flags::{NetworkFlags, address, seconds, switch};
use crate::setup::joining::Joining;
use crate::setup::local_worker::host_name;
use crate::setup::signal;

/// How long the coordinator is looked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Make this machine part of a cluster, once: paste the line that `potluck serve` or `potluck invite` printed on the
/// coordinator's machine. From then on `potluck worker` needs no arguments.
///
/// The invite proves the cluster to this machine and this machine to the cluster; nothing that it holds secret is sent.
#[derive(ClapArgs)]
pub struct Args {
    /// The invite; `-` reads it from standard input
    #[arg(env = "POTLUCK_INVITE", hide_env_values = true)]
    invite: String,
    /// Name shown to people, unless the invite gives one [default: the name of this machine]
    #[arg(long, env = "POTLUCK_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Where the coordinator is, if it is not found by itself
    #[arg(long, env = "POTLUCK_COORDINATOR", value_name = "HOST:PORT", value_parser = address)]
    coordinator: Option<String>,
    /// How long to look for the coordinator, such as 5m [default: 30 seconds]
    #[arg(long, env = "POTLUCK_WAIT", value_name = "TIME", value_parser = seconds)]
    wait: Option<u64>,
    /// Leave another cluster of the same name
    #[arg(long, env = "POTLUCK_REPLACE", value_parser = switch())]
    replace: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkFlags,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut invite: Invite = read(&args.invite).await?.parse()?;
    if let Some(coordinator) = &args.coordinator {
        invite.addresses = vec![coordinator.clone()];
    }
    let name = args.name.clone().unwrap_or_else(host_name);
    let joining = Joining {
        invite: &invite,
        name: &name,
        network: &args.network,
        patience: Some(args.wait.map_or(PATIENCE, Duration::from_secs)),
        replace: args.replace,
    };
    let joined = signal::interruptible(joining.join()).await?;
    let id = joined.credential.id();
    match args.json {
        true => println!(
            "{}",
            json!({
                "cluster": joined.cluster_name,
                "cluster_id": id.cluster.to_string(),
                "node": id.node.to_string(),
                "name": joined.name,
                "coordinators": joined.coordinators,
            })
        ),
        false => println!(
            "this machine is now {} of cluster `{}`; lend it with `potluck worker`",
            joined.name, joined.cluster_name
        ),
    }
    Ok(())
}

async fn read(invite: &str) -> anyhow::Result<String> {
    if invite != "-" {
        return Ok(invite.to_owned());
    }
    let mut text = String::new();
    tokio::io::stdin()
        .take(64 << 10)
        .read_to_string(&mut text)
        .await
        .context("standard input is not text")?;
    Ok(text)
}
