//! `potluck doctor`: what keeps machines from finding and using each other.

use anyhow::bail;
use clap::Args as ClapArgs;
use potluck_coordinator::dirs::cluster_name;
use serde_json::json;

use crate::doctor::cluster::WorkerView;
use crate::doctor::{Finding, Status, cluster, machine, network};
use crate::flags::{NetworkFlags, address};
use crate::setup::joining::memberships;
use crate::setup::{own_cluster, signal};

/// Look at this machine, its network and its cluster, and say what is wrong and how to mend it. Run it on the machine that is not
/// found, and on the coordinator's.
#[derive(ClapArgs)]
pub struct Args {
    /// Look at this cluster only
    #[arg(long, env = "POTLUCK_CLUSTER", value_name = "NAME", value_parser = cluster_name)]
    cluster: Option<String>,
    /// Where the coordinator is, if it is not found by itself
    #[arg(long, env = "POTLUCK_COORDINATOR", value_name = "HOST:PORT", value_parser = address)]
    coordinator: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkFlags,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let findings = signal::interruptible(look(&args)).await?;
    let n_failed = findings
        .iter()
        .filter(|finding| finding.status == Status::Failed)
        .count();
    match args.json {
        true => println!("{:#}", json!({"ok": n_failed == 0, "findings": findings})),
        false => findings
            .iter()
            .for_each(|finding| println!("{}", finding.text())),
    }
    match n_failed {
        0 => Ok(()),
        n => bail!("{n} of {} checks failed", findings.len()),
    }
}

async fn look(args: &Args) -> anyhow::Result<Vec<Finding>> {
    let mut findings = machine::check();
    let interfaces = args.network.interfaces()?;
    findings.push(network::interfaces(&interfaces));
    let heard = match args.network.no_mdns {
        true => Vec::new(),
        false => {
            let on = interfaces.clone();
            findings.extend(tokio::task::spawn_blocking(move || network::multicast(&on)).await?);
            network::listen(&interfaces).await?
        }
    };
    findings.extend(network::duplicates(&heard));
    let mut belongs = false;
    for membership in &memberships(args.cluster.as_deref())? {
        belongs = true;
        let view = WorkerView {
            membership,
            interfaces: &interfaces,
            heard: &heard,
            coordinator: args.coordinator.as_deref(),
        };
        findings.extend(view.check().await?);
    }
    for name in own_cluster::names(args.cluster.as_deref())? {
        if let Some(own) = own_cluster::find(&name)? {
            belongs = true;
            findings.extend(cluster::members(&own, &interfaces, &heard).await?);
        }
    }
    if !belongs {
        findings.push(Finding::warning(
            "membership",
            "this machine belongs to no cluster",
            "`potluck serve` makes one; `potluck join INVITE` joins one",
        ));
    }
    Ok(findings)
}
