//! This machine's interfaces, whether multicast works on them, and who is heard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use potluck_link::Interfaces;
use potluck_link::mdns::{Found, discover};
use potluck_link::multicast::hears_itself;
use potluck_proto::{InstanceId, NodeId};

use super::Finding;

/// How long is listened for others.
const LISTEN: Duration = Duration::from_millis(2500);

/// Which interfaces there are, and whether they lead anywhere.
pub fn interfaces(interfaces: &Interfaces) -> Finding {
    let names = interfaces.names().unwrap_or_default();
    let (used, left_out) = (names.0.join(", "), names.1.join(", "));
    let addresses = interfaces.addresses();
    let leads_out = addresses.iter().any(|ip| !ip.is_loopback());
    if leads_out {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let left_out = match left_out.as_str() {
            "" => String::new(),
            names => format!("; {names} left out"),
        };
        return Finding::ok(
            "interfaces",
            format!("{used} ({}){left_out}", addresses.join(", ")),
        );
    }
    match left_out.as_str() {
        "" | "lo" | "lo0" => Finding::failed(
            "interfaces",
            "no interface with an address leads to other machines",
            "connect this machine to the network (cable, Wi-Fi, DHCP) and look again",
        ),
        names => Finding::failed(
            "interfaces",
            format!(
                "only interfaces of containers, virtual machines or VPNs have an address: {names}"
            ),
            "connect this machine to the network; if one of these does lead to the others, name it with --interface NAME",
        ),
    }
}

/// Whether multicast works on each interface that is used.
pub fn multicast(interfaces: &Interfaces) -> Vec<Finding> {
    let addresses = interfaces.addresses();
    let v4 = addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let finding = |ip| match hears_itself(ip) {
        Ok(true) => Finding::ok("multicast", format!("{ip} sends and hears multicast")),
        Ok(false) => Finding::failed(
            "multicast",
            format!("{ip} sends multicast and does not hear it"),
            "let UDP port 5353 through this machine's firewall; or go without: --coordinator HOST:PORT with `potluck join`",
        ),
        Err(error) => Finding::failed(
            "multicast",
            format!("{ip} cannot send multicast: {error}"),
            "switch multicast on for this interface, and let UDP port 5353 through this machine's firewall",
        ),
    };
    v4.map(finding).collect()
}

/// Every node of any cluster that says where it is.
pub async fn listen(interfaces: &Interfaces) -> anyhow::Result<Vec<Found>> {
    let mut discovery = discover(interfaces, |_| true)?;
    let mut heard = Vec::new();
    let collect = async {
        while let Some(found) = discovery.next().await {
            if !heard.contains(&found) {
                heard.push(found);
            }
        }
    };
    // The time is up: that is how a search ends.
    let _ = tokio::time::timeout(LISTEN, collect).await;
    Ok(heard)
}

/// Two processes that claim to be one node.
pub fn duplicates(heard: &[Found]) -> Vec<Finding> {
    let mut by_node: BTreeMap<NodeId, BTreeMap<InstanceId, SocketAddr>> = BTreeMap::new();
    for found in heard {
        let processes = by_node.entry(found.advert.node).or_default();
        for address in &found.addresses {
            // A process is heard once for each of its addresses; people know the IPv4 one.
            let known = processes.entry(found.advert.instance).or_insert(*address);
            *known = (*known).min(*address);
        }
    }
    let copies = by_node
        .into_iter()
        .filter(|(_, processes)| processes.len() > 1);
    let finding = |(node, processes): (NodeId, BTreeMap<InstanceId, SocketAddr>)| {
        let places: Vec<_> = processes.values().map(ToString::to_string).collect();
        Finding::failed(
            "identity",
            format!(
                "{} processes have the identity of node {node}: at {}",
                places.len(),
                places.join(" and at ")
            ),
            "a state directory was copied from one machine to another: run `potluck join --replace` with a new invite on one of them",
        )
    };
    copies.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use potluck_proto::ClusterId;
    use potluck_proto::advert::Advert;

    use super::*;

    #[test]
    fn one_identity_in_two_places_is_a_copy_and_one_process_found_twice_is_not() {
        let found = |node: u8, instance: u8, address: &str| Found {
            advert: Advert::new(
                ClusterId([1; 16]),
                NodeId([node; 16]),
                InstanceId([instance; 16]),
                false,
            ),
            addresses: vec![address.parse().unwrap()],
        };
        let (first, second) = ("10.0.0.1:7461", "10.0.0.2:7461");
        assert!(
            duplicates(&[found(1, 1, first), found(1, 1, second), found(2, 2, first)]).is_empty()
        );
        let link_local = "[fe80::1]:7461";
        let copies = duplicates(&[
            found(1, 1, first),
            found(1, 9, link_local),
            found(1, 9, second),
        ]);
        assert!(copies[0].found.contains(first), "{copies:?}");
        assert!(copies[0].found.contains(second), "{copies:?}");
    }
}
