//! An invite: one line that lets one machine join. It pins the cluster's authority and holds a secret that is used once.
//!
//! `pl1:` and, in base64url, 32 bytes of fingerprint, 16 of secret and 4 of checksum; then, after an `@` each, addresses where the
//! coordinator may be found. The secret never crosses the wire: what is sent is a proof bound to the one TLS channel.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use potluck_proto::ClusterId;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::peer::{cluster_id, sha256};

const PREFIX: &str = "pl1:";

/// Says what the bytes that are hashed or signed are meant for.
const ID_LABEL: &[u8] = b"potluck invite id v1\0";
const KEY_LABEL: &[u8] = b"potluck invite key v1\0";
const TRANSCRIPT_LABEL: &[u8] = b"potluck join v1\0";

/// Addresses in one invite.
const MAX_ADDRESSES: usize = 4;

/// Characters of an address: a host name has at most 253.
const MAX_ADDRESS_CHARS: usize = 260;

/// Bytes of a node's name.
pub const MAX_NAME_BYTES: usize = 64;

/// An invite.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// SHA-256 of the authority's certificate.
    pub fingerprint: [u8; 32],
    /// Used once.
    pub secret: Secret,
    /// `host:port` where the coordinator may be found.
    pub addresses: Vec<String>,
}

/// The secret of an invite.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

/// A text that is no invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It begins otherwise.
    #[error(
        "an invite begins with `{PREFIX}`; paste the whole line that `potluck serve` or `potluck invite` printed"
    )]
    Prefix,
    /// It was cut or changed on the way.
    #[error(
        "the invite is incomplete or mistyped; paste the whole line that `potluck serve` or `potluck invite` printed"
    )]
    Damaged,
    /// An address in it is none.
    #[error(
        "the invite names `{0}`, which is not an address with a port, such as 192.168.1.5:7462"
    )]
    Address(String),
}

/// The system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomNumbers;

/// Fills bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomNumbers> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomNumbers)?;
    Ok(bytes)
}

impl Secret {
    /// A new one.
    pub fn random() -> Result<Secret, NoRandomNumbers> {
        random().map(Secret)
    }

    /// Names the invite without telling the secret.
    pub fn id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        id.copy_from_slice(&sha256(&[ID_LABEL, &self.0].concat())[..8]);
        id
    }

    /// What proofs are made and checked with: all that a coordinator keeps.
    pub fn key(&self) -> InviteKey {
        InviteKey(sha256(&[KEY_LABEL, &self.0].concat()))
    }
}

/// What a coordinator keeps of an invite.
#[derive(Clone, Copy)]
pub struct InviteKey(pub [u8; 32]);

impl InviteKey {
    /// Proves to know the secret.
    pub fn prove(&self, transcript: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, transcript).as_ref().to_vec()
    }

    /// Checks a proof, in constant time.
    pub fn is_proof(&self, transcript: &[u8], proof: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, transcript, proof).is_ok()
    }
}

/// What is proven and signed: this request, on this TLS channel and no other. `exporter` is the channel's keying material.
pub fn transcript(exporter: &[u8; 32], public_key: &[u8], name: &str) -> Vec<u8> {
    let lengths = [public_key.len() as u32, name.len() as u32].map(u32::to_le_bytes);
    [
        TRANSCRIPT_LABEL,
        exporter,
        &lengths[0],
        public_key,
        &lengths[1],
        name.as_bytes(),
    ]
    .concat()
}

impl Invite {
    /// The cluster that it is for.
    pub fn cluster(&self) -> ClusterId {
        cluster_id(&self.fingerprint)
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.fingerprint.as_slice(), &self.secret.0].concat();
        bytes.extend(&sha256(&bytes)[..4]);
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))?;
        self.addresses
            .iter()
            .try_for_each(|address| write!(f, "@{address}"))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Invite, InviteError> {
        let text = text.trim();
        // Some paste the whole command.
        let text = text.strip_prefix("potluck join ").unwrap_or(text).trim();
        let mut parts = text
            .strip_prefix(PREFIX)
            .ok_or(InviteError::Prefix)?
            .split('@');
        let encoded = parts.next().unwrap_or_default();
        let bytes = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| InviteError::Damaged)?;
        let bytes: [u8; 52] = bytes.try_into().map_err(|_| InviteError::Damaged)?;
        let (body, checksum) = bytes.split_at(48);
        if sha256(body)[..4] != *checksum {
            return Err(InviteError::Damaged);
        }
        let (mut fingerprint, mut secret) = ([0; 32], [0; 16]);
        fingerprint.copy_from_slice(&body[..32]);
        secret.copy_from_slice(&body[32..]);
        let addresses: Vec<String> = parts.map(str::to_owned).collect();
        match addresses.iter().find(|address| !is_address(address)) {
            _ if addresses.len() > MAX_ADDRESSES => Err(InviteError::Damaged),
            Some(address) => Err(InviteError::Address(address.clone())),
            None => Ok(Invite {
                fingerprint,
                secret: Secret(secret),
                addresses,
            }),
        }
    }
}

/// The secret stays out of logs.
impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invite({}, {:?})", self.cluster(), self.addresses)
    }
}

/// Whether a text has the form `host:port`.
pub fn is_address(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]%".contains(c);
    text.len() <= MAX_ADDRESS_CHARS
        && text.chars().all(is_plain)
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(addresses: &[&str]) -> Invite {
        Invite {
            fingerprint: [7; 32],
            secret: Secret([9; 16]),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn an_invite_reads_back_however_it_is_pasted() {
        for addresses in [
            &[][..],
            &["192.168.1.5:7462"],
            &["pc.local:1", "[fe80::1%eth0]:7462"],
        ] {
            let invite = invite(addresses);
            let text = invite.to_string();
            assert_eq!(text.parse(), Ok(invite.clone()), "{text}");
            assert_eq!(format!(" potluck join {text}\n").parse(), Ok(invite));
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let text = invite(&[]).to_string();
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Invite>().is_err(), "cut at {cut}");
        }
        for at in 4..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Invite>(), Err(InviteError::Damaged), "{at}");
        }
        for address in ["", "host", "host:", "host:0", "host:99999", "h o:1", ":1"] {
            let error = format!("{text}@{address}").parse::<Invite>().unwrap_err();
            assert_eq!(error, InviteError::Address(address.into()));
        }
    }

    #[test]
    fn a_proof_holds_for_its_channel_its_key_and_its_secret_only() {
        let (key, other) = (Secret([1; 16]).key(), Secret([2; 16]).key());
        let proven = transcript(&[3; 32], b"key", "pi");
        let proof = key.prove(&proven);
        assert!(key.is_proof(&proven, &proof));
        assert!(!other.is_proof(&proven, &proof));
        for (exporter, public_key, name) in [(4, "key", "pi"), (3, "kez", "pi"), (3, "keyp", "i")] {
            let other = transcript(&[exporter; 32], public_key.as_bytes(), name);
            assert!(!key.is_proof(&other, &proof), "{name}");
        }
        assert!(!key.is_proof(&proven, &proof[..31]));
    }
}
