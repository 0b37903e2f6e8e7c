//! Finding nodes by mDNS. What is found is a hint where to ask; who answers there proves who it is.

use std::net::{SocketAddr, SocketAddrV6};

use mdns_sd::{IfKind, IfPredicate, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use potluck_proto::advert::{Advert, SERVICE_TYPE};
use tokio::sync::mpsc;

use crate::interfaces::Interfaces;

/// Findings that wait to be read.
const QUEUED: usize = 64;

/// Addresses of one record that are looked at.
const MAX_ADDRESSES: usize = 16;

/// mDNS does not work here.
#[derive(Debug, thiserror::Error)]
#[error(
    "mDNS does not work here: {0}; go without it with --no-mdns, and name the other machine (--join HOST:PORT)"
)]
pub struct MdnsError(#[from] mdns_sd::Error);

/// A node that said where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says of itself.
    pub advert: Advert,
    /// Where it says it listens.
    pub addresses: Vec<SocketAddr>,
}

/// A published record. Dropping it withdraws it.
pub struct Advertisement {
    daemon: ServiceDaemon,
    fullname: String,
}

impl Advertisement {
    /// Publishes `advert` for a node that listens on `listening`. Addresses follow the machine's interfaces as they come and go.
    pub fn publish(
        interfaces: &Interfaces,
        listening: SocketAddr,
        advert: &Advert,
    ) -> Result<Self, MdnsError> {
        let daemon = daemon(interfaces)?;
        // Names must differ between processes, and say nothing of the machine or its user.
        let instance = advert.instance_name();
        let host = format!("{instance}.local.");
        let txt = advert.to_txt();
        let port = listening.port();
        let mut info = match listening.ip().is_unspecified() {
            true => ServiceInfo::new(SERVICE_TYPE, &instance, &host, "", port, &txt[..])?
                .enable_addr_auto(),
            false => ServiceInfo::new(
                SERVICE_TYPE,
                &instance,
                &host,
                listening.ip(),
                port,
                &txt[..],
            )?,
        };
        info.set_interfaces(vec![chosen(interfaces)]);
        let fullname = info.get_fullname().to_owned();
        daemon.register(info)?;
        Ok(Advertisement { daemon, fullname })
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        // The goodbye is a courtesy: peers also notice by themselves.
        if let Ok(done) = self.daemon.unregister(&self.fullname) {
            let _ = done.recv_timeout(std::time::Duration::from_millis(200));
        }
        let _ = self.daemon.shutdown();
    }
}

/// A running search. Dropping it ends it.
pub struct Discovery {
    daemon: ServiceDaemon,
    found: mpsc::Receiver<Found>,
}

impl Discovery {
    /// The next node that is found, or found again.
    pub async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

/// Looks for nodes that `wanted` lets through.
pub fn discover(
    interfaces: &Interfaces,
    wanted: impl Fn(&Advert) -> bool + Send + 'static,
) -> Result<Discovery, MdnsError> {
    let daemon = daemon(interfaces)?;
    let events = daemon.browse(SERVICE_TYPE)?;
    let (sender, found) = mpsc::channel(QUEUED);
    tokio::spawn(async move {
        while let Ok(event) = events.recv_async().await {
            if let ServiceEvent::ServiceResolved(service) = event
                && let Some(node) = found_in(&service).filter(|found| wanted(&found.advert))
                // Whoever advertises faster than is read here loses; it is told of again.
                && let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(node)
            {
                return;
            }
        }
    });
    Ok(Discovery { daemon, found })
}

fn daemon(interfaces: &Interfaces) -> Result<ServiceDaemon, MdnsError> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(chosen(interfaces))?;
    Ok(daemon)
}

fn chosen(interfaces: &Interfaces) -> IfKind {
    let interfaces = interfaces.clone();
    IfKind::Predicate(IfPredicate::new(move |interface| {
        interfaces.uses(interface)
    }))
}

/// The node behind a record, if it is one of ours with an address that one can connect to.
fn found_in(service: &mdns_sd::ResolvedService) -> Option<Found> {
    let advert = Advert::from_txt(|key| service.get_property_val_str(key))?;
    let port = service.get_port();
    let mut addresses: Vec<_> = service
        .get_addresses()
        .iter()
        .take(MAX_ADDRESSES)
        .filter_map(|ip| socket_address(ip, port))
        .collect();
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    (!addresses.is_empty() && port != 0).then_some(Found { advert, addresses })
}

fn socket_address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    let address = match ip {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into()
        }
        ip => SocketAddr::new(ip.to_ip_addr(), port),
    };
    let ip = address.ip();
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(address)
}
