//! Whether the interface asked for may be used.

use anyhow::{Context, bail};

use crate::flags::NetworkFlags;

/// Whether to use mDNS. Refuses an interface that leads out of this machine.
pub fn mdns_allowed(flags: &NetworkFlags) -> anyhow::Result<bool> {
    if flags.no_mdns {
        return Ok(false);
    }
    if let Some(name) = &flags.interface {
        require_loopback(name)?;
    }
    Ok(true)
}

fn require_loopback(name: &str) -> anyhow::Result<()> {
    let interfaces = if_addrs::get_if_addrs().context("the network interfaces cannot be listed")?;
    let mut named = interfaces
        .iter()
        .filter(|interface| interface.name == name)
        .peekable();
    if named.peek().is_none() {
        let mut names: Vec<_> = interfaces
            .iter()
            .map(|interface| interface.name.as_str())
            .collect();
        names.dedup();
        bail!(
            "there is no network interface `{name}`; there are {}",
            names.join(", ")
        );
    }
    if !named.all(|interface| interface.is_loopback()) {
        bail!(
            "interface `{name}` leads out of this machine: links between nodes are not encrypted yet, and potluck sends \
             nothing over a network in plaintext; use a loopback interface"
        );
    }
    Ok(())
}
