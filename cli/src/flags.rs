//! Flags that several commands share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser};
use potluck_coordinator::dirs::cluster_name;
use potluck_coordinator::http::Host;
use potluck_link::Interfaces;
use potluck_link::invite::is_address;
use potluck_proto::KvCacheType;
use potluck_proto::advert::DEFAULT_CLUSTER;

/// Where the API listens unless told otherwise.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7460);

/// What the variable of a switch may say: 1, true, yes or on, and their opposites.
pub fn switch() -> BoolishValueParser {
    BoolishValueParser::new()
}

/// Which model.
#[derive(Args, Clone)]
pub struct ModelFlags {
    /// A GGUF file, or the name of a model that potluck can fetch (see `potluck demo --help`)
    #[arg(long, env = "POTLUCK_MODEL", value_name = "NAME|PATH")]
    pub model: String,
}

/// How workers are found.
#[derive(Args, Clone)]
pub struct NetworkFlags {
    /// Network interface on which others are [default: all but those of containers, virtual machines and VPNs]
    #[arg(long, env = "POTLUCK_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Do not use mDNS
    #[arg(long, env = "POTLUCK_NO_MDNS", value_parser = switch())]
    pub no_mdns: bool,
}

impl NetworkFlags {
    /// The interfaces that lead to others.
    pub fn interfaces(&self) -> anyhow::Result<Interfaces> {
        Ok(Interfaces::choose(self.interface.as_deref())?)
    }
}

/// Which of this machine's clusters.
#[derive(Args, Clone)]
pub struct ClusterFlags {
    /// Name of the cluster: with other names, one machine can coordinate several
    #[arg(long, env = "POTLUCK_CLUSTER", value_name = "NAME", default_value = DEFAULT_CLUSTER, value_parser = cluster_name)]
    pub cluster: String,
}

/// How the API is opened.
#[derive(Args, Clone)]
pub struct ApiFlags {
    /// Where the API listens. At an address that other machines reach it needs a key (`potluck keys add NAME`), and TLS
    #[arg(long, visible_alias = "listen", env = "POTLUCK_HTTP", value_name = "HOST:PORT", default_value_t = DEFAULT_HTTP)]
    pub http: SocketAddr,
    /// The API's certificate and those that vouch for it, as PEM
    #[arg(
        long,
        env = "POTLUCK_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the API's certificate, as PEM
    #[arg(
        long,
        env = "POTLUCK_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Offer the API to other machines without TLS: everyone on the way can read keys and chats
    #[arg(long, env = "POTLUCK_INSECURE_HTTP", value_parser = switch())]
    pub insecure_http: bool,
    /// A name or address by which clients may call this machine, besides its own; may be given several times
    #[arg(
        long,
        env = "POTLUCK_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub allow_host: Vec<Host>,
}

/// Workers named by the user.
#[derive(Args, Clone)]
pub struct JoinFlags {
    /// Where a worker is that is not found by itself, such as 192.168.1.5:7461; may be given several times
    #[arg(
        long,
        env = "POTLUCK_JOIN",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = address
    )]
    pub join: Vec<String>,
}

/// How much a cluster promises.
#[derive(Args, Clone)]
pub struct CapacityFlags {
    /// Tokens that a prompt and its answer may take together [default: 4096, or what the model was trained for if less]
    #[arg(long, env = "POTLUCK_CONTEXT", value_name = "TOKENS")]
    pub context: Option<u32>,
    /// Answers computed at the same time; more wait their turn
    #[arg(long, env = "POTLUCK_MAX_SEQUENCES", value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub max_sequences: u32,
    #[command(flatten)]
    pub kv_cache: KvCacheFlags,
}

/// How keys and values are stored.
#[derive(Args, Clone, Copy)]
pub struct KvCacheFlags {
    /// How keys and values of the context are stored: f16, or q8_0 in about half the memory, for a small loss of precision
    #[arg(long, env = "POTLUCK_KV_CACHE_TYPE", value_name = "TYPE", default_value_t,
          value_parser = PossibleValuesParser::new(KvCacheType::ALL.map(KvCacheType::name)).try_map(|name| name.parse::<KvCacheType>()))]
    pub kv_cache_type: KvCacheType,
}

/// What this machine lends.
#[derive(Args, Clone)]
pub struct MachineFlags {
    /// Threads that compute [default: one for each physical core]
    #[arg(long, env = "POTLUCK_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Memory that layers may take, in MiB [default: what is free, less a reserve]
    #[arg(long, env = "POTLUCK_MEMORY_LIMIT", value_name = "MIB")]
    pub memory_limit: Option<u64>,
    /// Compute from the weights' files as they lie, without a copy in memory: for a machine whose memory the copy does not fit.
    /// Many times slower; --memory-limit may then be more than is free
    #[arg(long, env = "POTLUCK_MAP_WEIGHTS", value_parser = switch())]
    pub map_weights: bool,
    /// Directory for weights that were fetched [default: weights in potluck's cache directory]
    #[arg(long, env = "POTLUCK_WEIGHTS", value_name = "DIR")]
    pub weights: Option<PathBuf>,
}

/// How the next token is chosen.
#[derive(Args, Clone)]
pub struct SamplingFlags {
    /// 0 always takes the most likely token; higher is more varied
    #[arg(
        long,
        env = "POTLUCK_TEMPERATURE",
        value_name = "T",
        default_value_t = 0.0
    )]
    pub temperature: f32,
    /// Same seed, same answer [default: a new one each time]
    #[arg(long, env = "POTLUCK_SEED", value_name = "N")]
    pub seed: Option<u64>,
    /// Keep only the K most likely tokens; 0 keeps all
    #[arg(long, env = "POTLUCK_TOP_K", value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, env = "POTLUCK_TOP_P", value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, env = "POTLUCK_MIN_P", value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,
    /// Makes tokens of the last 64 less likely; 1 is off
    #[arg(
        long,
        env = "POTLUCK_REPEAT_PENALTY",
        value_name = "R",
        default_value_t = 1.0
    )]
    pub repeat_penalty: f32,
}

impl SamplingFlags {
    /// The parameters of an answer.
    pub fn sampling(&self) -> potluck_proto::Sampling {
        potluck_proto::Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            ..potluck_proto::Sampling::greedy()
        }
    }
}

/// `host:port`.
pub fn address(text: &str) -> anyhow::Result<String> {
    match is_address(text) {
        true => Ok(text.to_owned()),
        false => anyhow::bail!("write it as HOST:PORT, such as 192.168.1.5:7461"),
    }
}

const HOUR_S: u64 = 60 * 60;

/// A time such as `15m`, `12h`, `30d` or `8w`, in seconds.
pub fn seconds(text: &str) -> anyhow::Result<u64> {
    let units = [
        ('s', 1),
        ('m', 60),
        ('h', HOUR_S),
        ('d', 24 * HOUR_S),
        ('w', 7 * 24 * HOUR_S),
    ];
    let split = |(unit, seconds)| Some((text.strip_suffix(unit)?, seconds));
    let (count, unit_s) = units
        .into_iter()
        .find_map(split)
        .context("write it as seconds, minutes, hours, days or weeks: 30s, 15m, 12h, 30d, 8w")?;
    let count: u64 = count
        .parse()
        .with_context(|| format!("`{count}` is not a whole number"))?;
    match count.checked_mul(unit_s) {
        Some(seconds @ 1..) => Ok(seconds),
        _ => anyhow::bail!("`{text}` is no time from now"),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        for (text, want) in [
            ("30s", 30),
            ("15m", 900),
            ("1h", 3600),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ] {
            assert_eq!(seconds(text).unwrap(), want, "{text}");
        }
        let too_long = format!("{}w", u64::MAX);
        for text in ["", "d", "30", "0d", "-1d", "1.5d", "30 d", "30y", &too_long] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
