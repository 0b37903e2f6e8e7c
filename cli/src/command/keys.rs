//! `potluck keys`: who may use the API of this machine's cluster.

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use potluck_coordinator::dirs;
use potluck_coordinator::keys::{KeyFile, KeyRecord, date, unix_now};
use potluck_link::state_dir::StateDir;
use serde_json::{Value, json};

use crate::flags::ClusterFlags;

/// The longest time after which a key may end: whoever wants more wants a key without end.
const MAX_DAYS: u64 = 3650;

const DAY_S: u64 = 24 * 60 * 60;

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
}

#[derive(ClapArgs)]
struct AddArgs {
    /// Who or what the key is for
    name: String,
    /// The key ends after this time: a number of hours, days or weeks, such as 12h, 30d or 8w [default: never]
    #[arg(long, env = "POTLUCK_EXPIRES", value_name = "TIME", value_parser = seconds)]
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

fn key_file(flags: &ClusterFlags) -> anyhow::Result<KeyFile> {
    let dir = StateDir::open(dirs::cluster_dir(&flags.cluster)?)?;
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

/// `12h`, `30d` or `8w` in seconds.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let units = [('h', 60 * 60), ('d', DAY_S), ('w', 7 * DAY_S)];
    let split = |(unit, seconds)| Some((text.strip_suffix(unit)?, seconds));
    let (count, unit_s) = units
        .into_iter()
        .find_map(split)
        .context("write it as hours, days or weeks: 12h, 30d, 8w")?;
    let count: u64 = count
        .parse()
        .with_context(|| format!("`{count}` is not a whole number"))?;
    match count.checked_mul(unit_s) {
        Some(seconds) if (1..=MAX_DAYS * DAY_S).contains(&seconds) => Ok(seconds),
        _ => bail!("a key may end after 1h to {MAX_DAYS}d, or never"),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        for (text, want) in [
            ("1h", 3600),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("3650d", 315_360_000),
        ] {
            assert_eq!(seconds(text).unwrap(), want, "{text}");
        }
        let too_long = format!("{}w", u64::MAX);
        for text in [
            "", "d", "30", "0d", "-1d", "1.5d", "30 d", "30m", "3651d", &too_long,
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
