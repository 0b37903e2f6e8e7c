//! `potluck status`: what a running coordinator is doing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use potluck_coordinator::http::StatusReport;
use tokio::net::TcpStream;

use super::serve::DEFAULT_HTTP;

/// How long a coordinator may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Show the state of a running coordinator: its model, its workers and their layers, the answers under way.
#[derive(ClapArgs)]
pub struct Args {
    /// Where the coordinator's API listens
    #[arg(long, env = "POTLUCK_HTTP", value_name = "HOST:PORT", default_value_t = DEFAULT_HTTP)]
    http: SocketAddr,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let body = tokio::time::timeout(TIMEOUT, get(args.http, "/potluck/v1/status"))
        .await
        .with_context(|| format!("the coordinator at {} does not answer", args.http))??;
    let report: StatusReport = serde_json::from_slice(&body).with_context(|| {
        format!(
            "what answers at {} is not a coordinator of this version",
            args.http
        )
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", text(&report)),
    }
    Ok(())
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let no_server = || {
        format!(
            "no coordinator answers at {address}; start one with `potluck serve`, or name it with --http"
        )
    };
    let stream = TcpStream::connect(address).await.with_context(no_server)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        bail!(
            "the server at {address} answered {}; is it a potluck coordinator?",
            response.status()
        );
    }
    Ok(response.into_body().collect().await?.to_bytes())
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
