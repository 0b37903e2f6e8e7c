//! Workers that advertise themselves by mDNS. What is found is a hint where to ask; who answers there says who it is.

use std::net::SocketAddr;

use mdns_sd::{IfKind, ServiceDaemon, ServiceEvent};
use potluck_proto::NodeId;
use potluck_proto::advert::{Advert, SERVICE_TYPE};
use potluck_proto::reach::require_loopback;
use tokio::sync::mpsc;

/// Findings that wait to be read.
const QUEUED: usize = 64;

/// mDNS does not work here.
#[derive(Debug, thiserror::Error)]
#[error(
    "workers cannot be looked for by mDNS: {0}; name them with --join HOST:PORT and add --no-mdns"
)]
pub struct DiscoveryError(#[from] mdns_sd::Error);

/// A worker that said where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who it says it is.
    pub node: NodeId,
    /// Where it says it listens.
    pub address: SocketAddr,
}

/// A running search. Dropping it ends it.
pub struct Discovery {
    daemon: ServiceDaemon,
    found: mpsc::Receiver<Found>,
}

impl Discovery {
    /// The next worker that is found, or found again.
    pub async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

/// Looks for workers of the cluster `name`. Only on the loopback interface while links are plaintext.
pub fn discover(name: &str) -> Result<Discovery, DiscoveryError> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(IfKind::LoopbackV4)?;
    let events = daemon.browse(SERVICE_TYPE)?;
    let (sender, found) = mpsc::channel(QUEUED);
    let cluster = name.to_owned();
    tokio::spawn(async move {
        while let Ok(event) = events.recv_async().await {
            if let ServiceEvent::ServiceResolved(service) = event
                && let Some(worker) = found_in(&service, &cluster)
                && sender.send(worker).await.is_err()
            {
                return;
            }
        }
    });
    Ok(Discovery { daemon, found })
}

/// The worker behind a record, if it is one of our cluster with an address that may be used.
fn found_in(service: &mdns_sd::ResolvedService, cluster: &str) -> Option<Found> {
    let advert = Advert::from_txt(|key| service.get_property_val_str(key))?;
    if advert.cluster != cluster {
        return None;
    }
    let addresses = service
        .get_addresses()
        .iter()
        .map(|address| address.to_ip_addr());
    let mut usable = addresses.filter(|ip| match require_loopback("the advertised worker", *ip) {
        Ok(()) => true,
        Err(refused) => {
            tracing::debug!(%refused, "advertised address left out");
            false
        }
    });
    let address = SocketAddr::new(usable.next()?, service.get_port());
    Some(Found {
        node: advert.node,
        address,
    })
}
