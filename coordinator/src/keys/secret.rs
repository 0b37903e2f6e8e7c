//! The text of a key, `pl_<id>_<secret>`, and the hash that is kept of the secret.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with, so that one in the wrong place can be found.
const PREFIX: &str = "pl_";

/// Digits of an id, in hexadecimal.
const ID_CHARS: usize = 8;

/// The system has no random numbers to give, without which there are no secrets.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers, so no secret can be made; try again in a while")]
pub struct NoRandomness;

/// Thirty-two random bytes that only their holder knows. No `Debug` on purpose: a secret is never logged.
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn random() -> Result<Secret, NoRandomness> {
        random_bytes().map(Secret)
    }

    pub(super) fn parse(text: &str) -> Option<Secret> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Secret)
    }

    pub(super) fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// A secret is as random as its hash is long, so nothing slower than SHA-256 is called for.
    pub(super) fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }
}

/// SHA-256 of a secret. In a file it is 64 hexadecimal digits.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct SecretHash([u8; 32]);

impl SecretHash {
    /// Takes the same time whatever the secret is, so that nobody can guess it digit by digit.
    pub(super) fn is_of(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> String {
        HEXLOWER.encode(&hash.0)
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<SecretHash, &'static str> {
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(SecretHash)
            .ok_or("a hash is not 64 hexadecimal digits")
    }
}

pub(super) fn random_id() -> Result<String, NoRandomness> {
    random_bytes::<{ ID_CHARS / 2 }>().map(|bytes| HEXLOWER.encode(&bytes))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// What a client sends.
pub(super) fn key_text(id: &str, secret: &Secret) -> String {
    format!("{PREFIX}{id}_{}", secret.text())
}

/// The id and the secret of a key. None if the text is no key at all.
pub(super) fn parse_key(text: &str) -> Option<(&str, Secret)> {
    // A secret may contain underscores, an id does not.
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then_some((id, Secret::parse(secret)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_only_its_own_secret_fits() {
        let (id, secret) = (random_id().unwrap(), Secret::random().unwrap());
        let text = key_text(&id, &secret);
        assert_eq!(text.len(), PREFIX.len() + ID_CHARS + 1 + 43);
        let (read_id, read_secret) = parse_key(&text).unwrap();
        assert_eq!(read_id, id);
        assert!(secret.hash().is_of(&read_secret));
        assert!(!secret.hash().is_of(&Secret::random().unwrap()));
    }

    #[test]
    fn what_is_no_key_is_none() {
        let good = key_text("0a1b2c3d", &Secret([0xff; 32]));
        assert!(parse_key(&good).is_some());
        let swapped = good.replace("pl_", "sk_");
        let short = &good[..good.len() - 1];
        let long = format!("{good}A");
        let padded = format!("{good}=");
        let spaced = format!("{good} ");
        for text in [
            "",
            "pl_",
            "pl__",
            "pl_0a1b2c3d",
            "pl_0a1b2c3d_",
            "pl_0a1b2c3_AAAA",
            "none",
            &swapped,
            short,
            &long,
            &padded,
            &spaced,
        ] {
            assert!(parse_key(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_hash_is_kept_as_digits_and_damage_is_noticed() {
        let secret = Secret([7; 32]);
        let json = serde_json::to_string(&secret.hash()).unwrap();
        let read: SecretHash = serde_json::from_str(&json).unwrap();
        assert!(read.is_of(&secret));
        for bad in ["\"\"", "\"00\"", "5", &json.replace(char::is_numeric, "x")] {
            assert!(serde_json::from_str::<SecretHash>(bad).is_err(), "{bad}");
        }
    }
}
