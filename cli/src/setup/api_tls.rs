//! The certificate with which the API shows who it is.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use potluck_coordinator::cluster::OwnCluster;
use potluck_coordinator::http::Host;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::flags::ApiFlags;

/// Why there is no certificate to serve with, or none to trust.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source} ({flag})", path = path.display())]
    Unreadable {
        path: PathBuf,
        source: io::Error,
        /// Which flag named it.
        flag: &'static str,
    },
    /// The file holds something else.
    #[error("{path} holds no {what} in PEM; it should have a line `-----BEGIN {what}-----` ({flag})", path = path.display())]
    NotPem {
        path: PathBuf,
        what: &'static str,
        /// Which flag named it.
        flag: &'static str,
    },
    /// They do not belong together.
    #[error("the key in {key} is not that of the first certificate in {cert}; give the two files that belong together", key = key.display(), cert = cert.display())]
    NotAPair { cert: PathBuf, key: PathBuf },
    /// Well-formed, and no use.
    #[error("the certificate in {path} cannot be used: {source}", path = path.display())]
    Unusable {
        path: PathBuf,
        source: rustls::Error,
    },
}

/// How long a certificate of the cluster's own is good for; each start makes a new one. Some systems accept no more than 825 days.
const LIFETIME: Duration = Duration::from_secs(800 * 24 * 3600);

/// What the API encrypts with: the certificate that the user named, or one that the cluster's authority issues to these names.
pub fn api_tls_config(
    flags: &ApiFlags,
    own: &OwnCluster,
    hosts: &[Host],
) -> anyhow::Result<Arc<ServerConfig>> {
    Ok(Arc::new(match (&flags.tls_cert, &flags.tls_key) {
        (Some(cert), Some(key)) => from_files(cert, key)?,
        _ => from_authority(own, hosts)?,
    }))
}

fn from_authority(own: &OwnCluster, hosts: &[Host]) -> anyhow::Result<ServerConfig> {
    let (mut names, mut addresses) = (vec!["localhost".to_owned()], Vec::new());
    addresses.extend([
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ]);
    for host in hosts {
        match host {
            Host::Address(ip) => addresses.push(*ip),
            Host::Name(name) => names.push(name.clone()),
        }
    }
    let authority = own.authority();
    let issued = authority.issue_for_api(&names, &addresses, LIFETIME)?;
    let chain = vec![issued.certificate, authority.certificate().clone()];
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, issued.key)?;
    Ok(config)
}

fn from_files(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = certificates(cert, "--tls-cert")?;
    let private_key = PrivateKeyDer::from_pem_slice(&read(key, "--tls-key")?);
    let private_key = private_key.map_err(|_| TlsError::NotPem {
        path: key.to_owned(),
        what: "PRIVATE KEY",
        flag: "--tls-key",
    })?;
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private_key)
        })
        .map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => TlsError::NotAPair {
                cert: cert.to_owned(),
                key: key.to_owned(),
            },
            source => TlsError::Unusable {
                path: cert.to_owned(),
                source,
            },
        })
}

/// The certificates in a PEM file, at least one.
pub fn certificates(
    path: &Path,
    flag: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, flag)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::NotPem {
        path: path.to_owned(),
        what: "CERTIFICATE",
        flag,
    })
}

fn read(path: &Path, flag: &'static str) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
        flag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_are_a_pair_or_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let cert = write("cert.pem", &one.cert.pem());
        let key = write("key.pem", &one.signing_key.serialize_pem());
        let foreign = write("foreign.pem", &other.signing_key.serialize_pem());
        let text = write("text.pem", "not a certificate\n");
        let broken = write(
            "broken.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        let missing = folder.path().join("missing.pem");
        assert!(from_files(&cert, &key).is_ok());
        let cases = [
            (&missing, &key, "missing.pem: "),
            (&cert, &missing, "--tls-key"),
            (&text, &key, "BEGIN CERTIFICATE"),
            (&key, &key, "BEGIN CERTIFICATE"),
            (&cert, &cert, "BEGIN PRIVATE KEY"),
            (&cert, &foreign, "not that of the first certificate"),
            (&broken, &key, "broken.pem cannot be used"),
        ];
        for (cert, key, part) in cases {
            let said = from_files(cert, key).unwrap_err().to_string();
            assert!(said.contains(part), "`{part}` is missing in: {said}");
        }
    }
}
