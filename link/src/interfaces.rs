//! Which network interfaces lead to other machines of a home. Those of containers, virtual machines and VPNs do not: what they
//! are told would be addresses that nobody else can reach, and that several machines have at once.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use if_addrs::Interface;

/// How the names of interfaces begin that containers, virtual machines and VPNs make, on Linux, macOS and Windows.
const VIRTUAL: [&str; 27] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vnet",
    "vmnet",
    "vboxnet",
    "vethernet",
    "cni",
    "flannel",
    "cali",
    "podman",
    "lxc",
    "lxdbr",
    "incusbr",
    "tailscale",
    "ts0",
    "zt",
    "wg",
    "tun",
    "tap",
    "utun",
    "ppp",
    "awdl",
    "llw",
    "ipsec",
    "nebula",
];

/// Interfaces that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The system does not list them.
    #[error("the network interfaces cannot be listed: {0}")]
    List(#[from] io::Error),
    /// There is none of that name.
    #[error("there is no network interface `{name}` with an address; there are {there}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those that are there.
        there: String,
    },
}

/// The interfaces that are used for finding others, and whose addresses they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    only: Option<String>,
    /// Without any other interface the machine talks to itself.
    loopback: bool,
}

impl Interfaces {
    /// All that lead to other machines, or only the one that is named.
    pub fn choose(only: Option<&str>) -> Result<Interfaces, InterfaceError> {
        let all = if_addrs::get_if_addrs()?;
        if let Some(name) = only
            && !all.iter().any(|interface| interface.name == name)
        {
            let mut there: Vec<_> = all.iter().map(|i| i.name.as_str()).collect();
            there.dedup();
            return Err(InterfaceError::Unknown {
                name: name.to_owned(),
                there: there.join(", "),
            });
        }
        let leads_out = |i: &Interface| !i.is_loopback() && !is_virtual(&i.name);
        Ok(Interfaces {
            only: only.map(str::to_owned),
            loopback: !all.iter().any(leads_out),
        })
    }

    /// Whether an interface is one of them.
    pub fn uses(&self, interface: &Interface) -> bool {
        match &self.only {
            Some(name) => interface.name == *name,
            None if interface.is_loopback() => self.loopback,
            None => !is_virtual(&interface.name),
        }
    }

    /// Their addresses now, the likeliest to be reached first. Link-local addresses of IPv6 mean nothing on another machine.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let all = if_addrs::get_if_addrs().unwrap_or_default();
        let used = all.iter().filter(|interface| self.uses(interface));
        let mut addresses: Vec<_> = used
            .map(Interface::ip)
            .filter(|ip| !is_link_local(ip))
            .collect();
        addresses.sort_by_key(|ip| (ip.is_ipv6(), *ip));
        addresses.dedup();
        addresses
    }

    /// Where others reach a listener of this machine.
    pub fn reach(&self, listening: SocketAddr) -> Vec<SocketAddr> {
        match listening.ip().is_unspecified() {
            false => vec![listening],
            true => (self.addresses().into_iter())
                .filter(|ip| listening.is_ipv6() || ip.is_ipv4())
                .map(|ip| SocketAddr::new(ip, listening.port()))
                .collect(),
        }
    }

    /// Where to listen by default: on all addresses, or only on the one of the interface that was named.
    pub fn listen_on(&self, port: u16) -> SocketAddr {
        let named = self
            .only
            .as_ref()
            .and_then(|_| self.addresses().first().copied());
        match named {
            Some(ip) => SocketAddr::new(ip, port),
            None => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)),
        }
    }

    /// The names that are used, and those that are left out.
    pub fn names(&self) -> Result<(Vec<String>, Vec<String>), InterfaceError> {
        let mut all = if_addrs::get_if_addrs()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        let (used, left_out): (Vec<_>, Vec<_>) = all.iter().partition(|i| self.uses(i));
        let names = |list: Vec<&Interface>| list.iter().map(|i| i.name.clone()).collect();
        Ok((names(used), names(left_out)))
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            Ok((used, _)) if !used.is_empty() => f.write_str(&used.join(", ")),
            _ => f.write_str("no interface"),
        }
    }
}

/// Whether an interface is one of a container, a virtual machine or a VPN, by its name.
pub fn is_virtual(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    VIRTUAL.iter().any(|prefix| name.starts_with(prefix))
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_and_vpns_are_virtual() {
        for name in [
            "docker0",
            "br-3f2a",
            "veth12ab",
            "virbr0",
            "tailscale0",
            "utun3",
            "wg0",
            "vEthernet (WSL)",
            "zt5u4y6ejv",
        ] {
            assert!(is_virtual(name), "{name}");
        }
        for name in [
            "eth0", "enp3s0", "wlan0", "wlp2s0", "en0", "br0", "bond0", "eno1", "lo",
        ] {
            assert!(!is_virtual(name), "{name}");
        }
    }

    #[test]
    fn an_interface_that_is_named_is_the_only_one() {
        let loopback = if cfg!(target_os = "macos") {
            "lo0"
        } else {
            "lo"
        };
        let only = Interfaces::choose(Some(loopback)).unwrap();
        assert!(only.addresses().iter().all(IpAddr::is_loopback));
        assert_eq!(only.listen_on(7), "127.0.0.1:7".parse().unwrap());
        let missing = Interfaces::choose(Some("nosuch0")).unwrap_err();
        assert!(missing.to_string().contains(loopback), "{missing}");
    }
}
