//! How a command opens its API. Everything that may refuse is asked here, before a model is read or anything listens.

use std::net::SocketAddr;

use anyhow::Context;
use potluck_coordinator::cluster::OwnCluster;
use potluck_coordinator::http::{self, AllowedHosts, Doorkeeper, Gate, Host, Transport};

use super::api_tls::api_tls_config;
use super::local_worker::host_name;
use crate::flags::ApiFlags;

/// An API that may be served.
pub struct Api {
    pub address: SocketAddr,
    pub gate: Gate,
    pub hosts: AllowedHosts,
    pub transport: Transport,
}

impl Api {
    /// As the user asked for it, with the keys of a cluster.
    pub fn open(flags: &ApiFlags, own: &OwnCluster) -> anyhow::Result<Api> {
        let address = flags.http;
        let dir = own.state().clone();
        let gate = Gate::at(address, Doorkeeper::open(dir)?);
        http::check_keys(address, &gate)?;
        let hosts = hosts(flags)?;
        Ok(Api {
            address,
            gate,
            transport: transport(flags, own, &hosts)?,
            hosts: AllowedHosts::and_local(hosts),
        })
    }

    /// For this machine alone, and everyone on it.
    pub fn of_this_machine(address: SocketAddr) -> Api {
        Api {
            address,
            gate: Gate::Open,
            hosts: AllowedHosts::and_local([]),
            transport: Transport::Plain,
        }
    }

    /// With which its address begins.
    pub fn scheme(&self) -> &'static str {
        match self.transport {
            Transport::Plain | Transport::Insecure => "http",
            Transport::Tls(_) => "https",
        }
    }
}

fn transport(flags: &ApiFlags, own: &OwnCluster, hosts: &[Host]) -> anyhow::Result<Transport> {
    let files = flags.tls_cert.is_some();
    Ok(match () {
        () if !files && flags.insecure_http => Transport::Insecure,
        () if !files && http::is_local(flags.http) => Transport::Plain,
        () => Transport::Tls(api_tls_config(flags, own, hosts)?),
    })
}

/// What clients may call this machine, besides its loopback names.
fn hosts(flags: &ApiFlags) -> anyhow::Result<Vec<Host>> {
    let own = match http::is_local(flags.http) {
        true => Vec::new(),
        false => own_hosts()?,
    };
    let named = flags.allow_host.iter().cloned();
    Ok(named.chain(own).collect())
}

/// What other machines on the network call this one.
fn own_hosts() -> anyhow::Result<Vec<Host>> {
    let interfaces = if_addrs::get_if_addrs()
        .context("the addresses of this machine cannot be listed; name them with --allow-host")?;
    let name = host_name();
    // By mDNS a machine is its name in the domain `local`.
    let names = [name.clone(), format!("{name}.local")];
    let names = names.iter().filter_map(|name| name.parse().ok());
    let addresses = interfaces
        .iter()
        .map(|interface| Host::from(interface.ip()));
    Ok(names.chain(addresses).collect())
}
