//! The worker's mDNS record, on the loopback interface.

use std::net::SocketAddr;

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use potluck_proto::advert::{Advert, SERVICE_TYPE};

/// mDNS does not work here.
#[derive(Debug, thiserror::Error)]
#[error(
    "this worker cannot be advertised by mDNS: {source}; start it with --no-mdns and name it to the coordinator with --join"
)]
pub struct AdvertiseError {
    #[from]
    source: mdns_sd::Error,
}

/// A published record. Dropping it withdraws it.
pub(super) struct Advertisement {
    daemon: ServiceDaemon,
    fullname: String,
}

impl Advertisement {
    /// Publishes `advert` for a worker at `address`.
    pub fn publish(
        name: &str,
        address: SocketAddr,
        advert: &Advert,
    ) -> Result<Self, AdvertiseError> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::LoopbackV4)?;
        // Instance names must differ between workers of one name; host names may not contain dots.
        let instance = format!("{name} {}", advert.node);
        let host = format!("potluck-{}.local.", advert.node);
        let txt = advert.to_txt();
        let info = ServiceInfo::new(
            SERVICE_TYPE,
            &instance,
            &host,
            address.ip(),
            address.port(),
            &txt[..],
        )?;
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
