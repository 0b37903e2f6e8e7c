//! What a node says of itself by mDNS: a hint where to ask, never an identity. No names of machines, users or models.

use crate::id::{bytes_of, hex_of};
use crate::{ClusterId, InstanceId, NodeId, PROTOCOL};

/// The DNS-SD service type.
pub const SERVICE_TYPE: &str = "_potluck._tcp.local.";

/// Name of a cluster unless told otherwise.
pub const DEFAULT_CLUSTER: &str = "home";

/// The TXT record of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advert {
    /// Protocol version it speaks.
    pub protocol: u32,
    /// The first bytes of the id of the cluster that it belongs to: enough to leave others alone.
    pub cluster: [u8; 4],
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub instance: InstanceId,
    /// Whether it is the cluster's coordinator; else it is a worker.
    pub is_coordinator: bool,
}

impl Advert {
    /// For a node of this build.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        instance: InstanceId,
        is_coordinator: bool,
    ) -> Self {
        Advert {
            protocol: PROTOCOL,
            cluster: cluster.prefix(),
            node,
            instance,
            is_coordinator,
        }
    }

    /// A name that no other process has.
    pub fn instance_name(&self) -> String {
        format!("potluck-{}-{}", self.node, self.instance)
    }

    /// Key-value pairs of the TXT record.
    pub fn to_txt(&self) -> [(&'static str, String); 5] {
        let role = if self.is_coordinator { "c" } else { "w" };
        [
            ("v", self.protocol.to_string()),
            ("cluster", hex_of(&self.cluster)),
            ("id", hex_of(&self.node.0)),
            ("instance", hex_of(&self.instance.0)),
            ("role", role.to_owned()),
        ]
    }

    /// Reads a TXT record. None if it is not one of ours.
    pub fn from_txt<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Advert> {
        Some(Advert {
            protocol: get("v")?.parse().ok()?,
            cluster: bytes_of(get("cluster")?)?,
            node: NodeId(bytes_of(get("id")?)?),
            instance: InstanceId(bytes_of(get("instance")?)?),
            is_coordinator: match get("role")? {
                "c" => true,
                "w" => false,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_foreign_ones_do_not() {
        let (node, instance) = (NodeId([0xab; 16]), InstanceId([0xcd; 16]));
        let advert = Advert::new(ClusterId([7; 16]), node, instance, true);
        let txt = advert.to_txt();
        let get = |key: &str| {
            let pair = txt.iter().find(|(k, _)| *k == key);
            pair.map(|(_, value)| value.as_str())
        };
        assert_eq!(Advert::from_txt(get), Some(advert));
        assert_eq!(Advert::from_txt(|_| Some("é")), None);
        assert_eq!(Advert::from_txt(|_| Some("12")), None);
        assert_eq!(Advert::from_txt(|_| None), None);
    }
}
