//! `potluck invite`: let one more machine join.

use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::json;

use crate::flags::{ClusterFlags, address, seconds};
use crate::setup::own_cluster;

/// How long an invite is good for.
pub const TTL: Duration = Duration::from_secs(3600);

/// Addresses of the coordinator that an invite names: more make the line long.
pub const MAX_ADDRESSES: usize = 2;

/// Make an invite for one more machine, which is shown this once. A running coordinator accepts it at once.
#[derive(ClapArgs)]
pub struct Args {
    /// The name that the machine is to go by [default: what it calls itself]
    #[arg(long, env = "POTLUCK_NAME", value_name = "NAME")]
    name: Option<String>,
    /// The invite is good for this time, such as 15m, 12h or 2d [default: 1h]
    #[arg(long, env = "POTLUCK_TTL", value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// Where the machine reaches the coordinator [default: where that listens, or listened last]
    #[arg(long, env = "POTLUCK_COORDINATOR", value_name = "HOST:PORT", value_parser = address)]
    coordinator: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let own = own_cluster::existing(&args.cluster.cluster)?;
    let mut addresses = match args.coordinator {
        Some(address) => vec![address],
        None => own.place()?,
    };
    addresses.truncate(MAX_ADDRESSES);
    let ttl = args.ttl.map_or(TTL, Duration::from_secs);
    let invite = own.invites().make(args.name, ttl, addresses)?;
    match args.json {
        true => println!(
            "{}",
            json!({"invite": invite.to_string(), "ttl_s": ttl.as_secs(), "cluster": own.name})
        ),
        false => {
            println!("potluck join {invite}");
            eprintln!(
                "run that on the machine that is to join, within {} min; it lets in one machine",
                ttl.as_secs().div_ceil(60)
            );
        }
    }
    Ok(())
}
