//! What a worker says of itself by mDNS: a hint where to ask, never an identity.

use crate::{NodeId, PROTOCOL};

/// The DNS-SD service type.
pub const SERVICE_TYPE: &str = "_potluck._tcp.local.";

/// Name of the cluster that workers and coordinators belong to unless told otherwise.
pub const DEFAULT_CLUSTER: &str = "home";

/// The TXT record of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// Protocol version the worker speaks.
    pub protocol: u32,
    /// The worker process.
    pub node: NodeId,
    /// Name of the cluster it wants to be part of.
    pub cluster: String,
}

impl Advert {
    /// For a worker of this build.
    pub fn new(node: NodeId, cluster: impl Into<String>) -> Self {
        Advert {
            protocol: PROTOCOL,
            node,
            cluster: cluster.into(),
        }
    }

    /// Key-value pairs of the TXT record.
    pub fn to_txt(&self) -> [(&'static str, String); 3] {
        let node = self.node.0.iter().map(|b| format!("{b:02x}")).collect();
        [
            ("v", self.protocol.to_string()),
            ("id", node),
            ("cluster", self.cluster.clone()),
        ]
    }

    /// Reads a TXT record. None if it is not one of ours.
    pub fn from_txt<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Advert> {
        Some(Advert {
            protocol: get("v")?.parse().ok()?,
            node: parse_node(get("id")?)?,
            cluster: get("cluster")?.to_owned(),
        })
    }
}

fn parse_node(hex: &str) -> Option<NodeId> {
    let mut node = [0; 16];
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in node.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(NodeId(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_foreign_ones_do_not() {
        let advert = Advert::new(NodeId([0xab; 16]), "home");
        let txt = advert.to_txt();
        let get = |key: &str| {
            let pair = txt.iter().find(|(k, _)| *k == key);
            pair.map(|(_, value)| value.as_str())
        };
        assert_eq!(Advert::from_txt(get), Some(advert));
        assert_eq!(Advert::from_txt(|_| Some("é")), None);
        assert_eq!(Advert::from_txt(|_| None), None);
    }
}
