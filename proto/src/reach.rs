//! Which addresses may be used. Links between nodes are plaintext for now, so only this machine's own are.

use std::net::IpAddr;

/// An address outside this machine, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {ip} is not on this machine: links between nodes are not encrypted yet, and potluck sends nothing over a \
     network in plaintext; use a loopback address (127.0.0.1 or ::1)"
)]
pub struct NotLoopback {
    /// What the address was meant for.
    pub what: &'static str,
    /// The address.
    pub ip: IpAddr,
}

/// Refuses an address that is not loopback.
pub fn require_loopback(what: &'static str, ip: IpAddr) -> Result<(), NotLoopback> {
    match ip.to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(NotLoopback { what, ip }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_passes() {
        for (ip, passes) in [
            ("127.0.0.1", true),
            ("127.8.9.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
            ("fe80::1", false),
        ] {
            let verdict = require_loopback("listen address", ip.parse().unwrap());
            assert_eq!(verdict.is_ok(), passes, "{ip}");
        }
    }
}
