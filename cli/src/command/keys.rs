//! `potluck keys`: who may use the API of this machine's cluster.

use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use potluck_coordinator::keys::{KeyFile, KeyRecord, date, unix_now};
use potluck_link::credential::pem;
use serde_json::{Value, json};

use crate::flags::{ClusterFlags, seconds};
use crate::setup::own_cluster;

/// The longest time after which a key may end: whoever wants more wants a key without end.
const MAX_DAYS: u64 = 3650;

const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;

/// Make, list and remove keys of the API. A running coordinator notices within moments.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a key and show it, this once
    Add(AddArgs),
    /// List the keys; they themselves are not shown
    Ls(LsArgs),
    /// Remove a key, which is refused from then on
    Rm(RmArgs),
    /// Print the certificate that clients must trust when the API is served with one of the cluster's own
    Ca(CaArgs),
}

#[derive(ClapArgs)]
struct AddArgs {
    /// Who or what the key is for
    name: String,
    /// The key ends after this time: a number of hours, days or weeks, such as 12h, 30d or 8w [default: never]
    #[arg(long, env = "POTLUCK_EXPIRES", value_name = "TIME", value_parser = life)]
    expires: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(ClapArgs)]
struct LsArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(ClapArgs)]
struct CaArgs {
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(ClapArgs)]
struct RmArgs {
    /// The key's name, or its id
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Add(args) => add(&args),
        Action::Ls(args) => ls(&args),
        Action::Rm(args) => rm(&args),
        Action::Ca(args) => ca(&args),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    let expires = args.expires.map(|seconds| unix_now() + seconds);
    let key = key_file(&args.cluster)?.add(&args.name, expires)?;
    if args.json {
        let mut object = as_json(&key.record);
        object["key"] = json!(key.text);
        println!("{object:#}");
        return Ok(());
    }
    // The key alone on standard output, where a script can take it.
    println!("{}", key.text);
    eprintln!(
        "this key of `{}` is not shown again; clients send it as their API key",
        key.record.name
    );
    Ok(())
}

fn ls(args: &LsArgs) -> anyhow::Result<()> {
    let keys = key_file(&args.cluster)?.list()?;
    if args.json {
        println!("{:#}", Value::Array(keys.iter().map(as_json).collect()));
        return Ok(());
    }
    if keys.is_empty() {
        eprintln!("there are no keys; make one with `potluck keys add NAME`");
    }
    for key in &keys {
        println!("{}", line(key));
    }
    Ok(())
}

fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let key = key_file(&args.cluster)?.remove(&args.name)?;
    match args.json {
        true => println!("{:#}", as_json(&key)),
        false => println!("removed the key of `{}`", key.name),
    }
    Ok(())
}

/// For `--ca`, `SSL_CERT_FILE` and the like.
fn ca(args: &CaArgs) -> anyhow::Result<()> {
    let own = own_cluster::existing(&args.cluster.cluster)?;
    print!("{}", pem(own.authority().certificate()));
    Ok(())
}

fn key_file(flags: &ClusterFlags) -> anyhow::Result<KeyFile> {
    let dir = own_cluster::state(&flags.cluster)?;
    Ok(KeyFile::new(dir))
}

fn line(key: &KeyRecord) -> String {
    let end = match key.expires {
        None => "never expires".to_owned(),
        Some(end) if end <= unix_now() => format!("expired {}", date(end)),
        Some(end) => format!("expires {}", date(end)),
    };
    format!(
        "{}  {}  made {}  {end}",
        key.name,
        key.id,
        date(key.created)
    )
}

fn as_json(key: &KeyRecord) -> Value {
    json!({"id": key.id, "name": key.name, "created": key.created, "expires": key.expires})
}

/// How long a key lives.
fn life(text: &str) -> anyhow::Result<u64> {
    match seconds(text)? {
        seconds if (HOUR_S..=MAX_DAYS * DAY_S).contains(&seconds) => Ok(seconds),
        _ => bail!("a key may end after 1h to {MAX_DAYS}d, or never"),
    }
}

#[cfg(test)]
mod tests {
    use super::life;

    #[test]
    fn a_key_lives_from_an_hour_to_ten_years() {
        assert_eq!(life("1h").unwrap(), 3600);
        assert_eq!(life("3650d").unwrap(), 315_360_000);
        for text in ["59m", "3651d", "", "1"] {
            assert!(life(text).is_err(), "{text}");
        }
    }
}
