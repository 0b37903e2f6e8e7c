//! The API is opened to other machines only on purpose. Nothing here listens anywhere but on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use potluck_coordinator::http::{
    self, AllowedHosts, Gate, Host, OpeningRefused, Transport, check_opening,
};

use crate::client::send;
use crate::keys::Keys;
use crate::server::{self, Opened, USUAL};
use crate::tls::Certificate;

const BEYOND: [&str; 5] = [
    "0.0.0.0:80",
    "192.168.1.2:80",
    "[::]:80",
    "[fe80::1]:80",
    "[::ffff:10.0.0.1]:80",
];

#[test]
fn on_this_machine_nothing_is_asked_for() {
    for address in [
        "127.0.0.1:80",
        "127.8.8.8:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        let address: SocketAddr = address.parse().unwrap();
        assert!(http::is_local(address));
        assert_eq!(
            check_opening(address, &Gate::Open, &Transport::Plain),
            Ok(())
        );
    }
}

#[test]
fn other_machines_need_a_key_and_encryption_or_a_word() {
    let tls = Transport::Tls(Arc::new(Certificate::new().server()));
    for at in BEYOND {
        let address: SocketAddr = at.parse().unwrap();
        let (none, (some, _)) = (Keys::none(), Keys::one());
        let (without, with) = (none.gate(at), some.gate(at));
        let check = |gate: &Gate, transport: &Transport| check_opening(address, gate, transport);
        let no_key = Err(OpeningRefused::NoKey { address });
        for transport in [&Transport::Plain, &Transport::Insecure, &tls] {
            assert_eq!(check(&without, transport), no_key, "{at}");
            assert_eq!(check(&Gate::Open, transport), no_key, "{at}");
            // A gate that stands open until there are keys is for this machine only.
            let here = some.gate("127.0.0.1:80");
            assert_eq!(check(&here, transport), no_key, "{at}");
        }
        let not_encrypted = Err(OpeningRefused::NotEncrypted { address });
        assert_eq!(check(&with, &Transport::Plain), not_encrypted, "{at}");
        assert_eq!(check(&with, &Transport::Insecure), Ok(()), "{at}");
        assert_eq!(check(&with, &tls), Ok(()), "{at}");
    }
}

#[test]
fn refusals_say_what_to_run() {
    let address = "0.0.0.0:7460".parse().unwrap();
    let cases = [
        (OpeningRefused::NoKey { address }, "potluck keys add NAME"),
        (OpeningRefused::NotEncrypted { address }, "--tls-cert FILE"),
        (OpeningRefused::NotEncrypted { address }, "--insecure-http"),
    ];
    for (refused, way_out) in cases {
        let said = refused.to_string();
        assert!(
            said.contains("0.0.0.0:7460") && said.contains(way_out) && said.contains("127.0.0.1"),
            "{said}"
        );
    }
}

/// A server that was opened to other machines stays shut when the last key goes.
#[tokio::test]
async fn without_any_key_left_nobody_is_let_in() {
    let keys = Keys::none();
    let opened = Opened {
        gate: keys.gate("0.0.0.0:80"),
        ..server::open()
    };
    let server = server::start_opened(USUAL, opened).await;
    let request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(send(server.address, request).await.status, 401);
}

#[tokio::test]
async fn the_machine_may_be_called_by_the_names_it_was_given() {
    let address = std::net::IpAddr::from([192, 168, 1, 7]);
    let hosts = AllowedHosts::and_local([Host::from(address), "attic.local".parse().unwrap()]);
    let opened = Opened {
        hosts,
        ..server::open()
    };
    let server = server::start_opened(USUAL, opened).await;
    let cases = [
        ("Host: 192.168.1.7:7460", 200),
        ("Host: ATTIC.local", 200),
        ("Host: localhost:7460", 200),
        ("Host: 192.168.1.8:7460", 403),
        ("Host: attic", 403),
        ("Host: evil.attic.local", 403),
        ("Host: attic.local\r\nOrigin: http://attic.local:3000", 200),
        ("Host: attic.local\r\nOrigin: http://localhost:3000", 200),
        ("Host: attic.local\r\nOrigin: http://evil.com", 403),
        ("Host: attic.local\r\nOrigin: http://192.168.1.7", 403),
        ("Host: attic.local\r\nOrigin: null", 403),
    ];
    for (headers, status) in cases {
        let request = format!("GET /v1/models HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        let reply = send(server.address, request.as_bytes()).await;
        assert_eq!(reply.status, status, "{headers}");
    }
}
