//! `potluck status`: what a running coordinator is doing.

use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use potluck_coordinator::http::StatusReport;

use crate::flags::ClusterFlags;
use crate::setup::api_client::ClientFlags;

/// How long a coordinator may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Show the state of a running coordinator: its model, its workers and their layers, the answers under way.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    client: ClientFlags,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let address = &args.client.http;
    let asked = args.client.get("/potluck/v1/status", &args.cluster.cluster);
    let body = tokio::time::timeout(TIMEOUT, asked)
        .await
        .with_context(|| format!("the coordinator at {address} does not answer"))??;
    let report: StatusReport = serde_json::from_slice(&body).with_context(|| {
        format!("what answers at {address} is not a coordinator of this version")
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", text(&report)),
    }
    Ok(())
}

fn text(report: &StatusReport) -> String {
    let state = serde_json::to_value(report.state).ok();
    let state = state
        .as_ref()
        .and_then(|state| state.as_str())
        .unwrap_or("unknown")
        .replace('_', " ");
    let why = report
        .why
        .as_ref()
        .map(|why| format!(" ({why})"))
        .unwrap_or_default();
    let mut text = format!(
        "{}: {state}{why}\n{} running, {} waiting\n",
        report.model, report.running, report.waiting
    );
    for worker in &report.workers {
        let layers = match worker.layers {
            Some([from, to]) => format!("layers {from}-{}", to - 1),
            None => "no layers".to_owned(),
        };
        let gib = worker.memory_budget_bytes as f64 / f64::from(1 << 30);
        text += &format!(
            "{}  {}  {}  {layers}  {gib:.1} GiB  {} {} threads\n",
            worker.name, worker.address, worker.state, worker.isa, worker.threads
        );
    }
    text
}
