//! Who has a key is let in, everywhere; who has none is not, anywhere but at the one public path.

use std::time::Instant;

use potluck_coordinator::http::{self, ClusterState, Doorkeeper, Gate, StatusReport};
use potluck_coordinator::keys::{KeyFile, LocalToken};
use potluck_link::state_dir::StateDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Reply, chat, get, send};
use crate::server::{self, Opened, PATIENCE, Server, USUAL};

/// The keys of a cluster, and the folder in which they are.
pub struct Keys {
    pub file: KeyFile,
    dir: StateDir,
    folder: tempfile::TempDir,
}

impl Keys {
    pub fn none() -> Keys {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path().join("home")).unwrap();
        Keys {
            file: KeyFile::new(dir.clone()),
            dir,
            folder,
        }
    }

    /// One key, which never ends.
    pub fn one() -> (Keys, String) {
        let keys = Keys::none();
        let key = keys.file.add("ann", None).unwrap().text;
        (keys, key)
    }

    pub fn add(&self, name: &str, expires: Option<u64>) -> String {
        self.file.add(name, expires).unwrap().text
    }

    /// The gate of a server that listens at `address`.
    pub fn gate(&self, address: &str) -> Gate {
        let doorkeeper = Doorkeeper::open(self.dir.clone()).unwrap();
        Gate::at(address.parse().unwrap(), doorkeeper)
    }

    /// What this user's programs send to the server that was started last.
    pub fn token(&self) -> String {
        LocalToken::published(&self.dir).unwrap().unwrap()
    }

    pub async fn serve(&self) -> Server {
        let gate = self.gate("127.0.0.1:0");
        let opened = Opened {
            gate,
            ..server::open()
        };
        let server = server::start_opened(USUAL, opened).await;
        // Whoever got an answer knows that the token is there.
        get(server.address, "/health").await;
        server
    }
}

async fn request(server: &Server, method: &str, path: &str, headers: &str) -> Reply {
    let body = chat("say:hi").to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(server.address, request.as_bytes()).await
}

/// The status of a question asked with this key.
async fn ask_with(server: &Server, key: &str) -> Reply {
    let header = format!("Authorization: Bearer {key}\r\n");
    request(server, "POST", "/v1/chat/completions", &header).await
}

/// Asks until the answer has this status: a change of the keys is noticed within moments.
async fn until_status(server: &Server, key: &str, status: u16) {
    let started = Instant::now();
    while ask_with(server, key).await.status != status {
        assert!(started.elapsed() < PATIENCE, "never {status}");
    }
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn no_route_but_the_public_one_answers_without_a_key() {
    let (keys, key) = Keys::one();
    let server = keys.serve().await;
    let nowhere = [
        "/",
        "/metrics",
        "/health/",
        "//health",
        "/%68ealth",
        "/health/../v1/models",
    ];
    for path in http::paths().chain(nowhere) {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            let reply = request(&server, method, path, "").await;
            if path == "/health" {
                assert_ne!(reply.status, 401, "{method} {path}");
                continue;
            }
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(
                reply.header("www-authenticate"),
                Some("Bearer"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(ask_with(&server, &key).await.status, 200);
    assert_eq!(request(&server, "GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn the_public_route_names_no_machine() {
    let (keys, _) = Keys::one();
    let server = keys.serve().await;
    server.report.send_replace(StatusReport {
        why: Some("worker attic is gone".to_owned()),
        ..server::report(ClusterState::Down)
    });
    let reply = get(server.address, "/health").await;
    assert_eq!(reply.status, 503);
    assert_eq!(message(&reply), "no worker can compute");
}

#[tokio::test]
async fn the_refusal_has_the_shape_that_clients_know() {
    let (keys, _) = Keys::one();
    let server = keys.serve().await;
    let error = request(&server, "GET", "/v1/models", "").await.json()["error"].take();
    assert_eq!(error["type"], "authentication_error");
    assert_eq!(error["code"], "invalid_api_key");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("potluck keys add"), "{message}");
}

#[tokio::test]
async fn only_a_whole_valid_key_opens() {
    let (keys, ann) = Keys::one();
    let bob = keys.add("bob", None);
    let removed = keys.add("removed", None);
    keys.file.remove("removed").unwrap();
    let server = keys.serve().await;
    let (ann_id, bob_secret) = (&ann[..12], &bob[12..]);
    let good = [
        format!("Authorization: Bearer {ann}"),
        format!("Authorization: Bearer {bob}"),
        format!("authorization: bearer {ann}"),
        format!("AUTHORIZATION: BEARER   {ann}  "),
        format!("X-Api-Key: {ann}"),
        format!("X-Api-Key: none\r\nAuthorization: Bearer {ann}"),
    ];
    for header in good {
        let reply = request(&server, "GET", "/v1/models", &format!("{header}\r\n")).await;
        assert_eq!(reply.status, 200, "{header}");
    }
    let bad = [
        "Authorization:".to_owned(),
        "Authorization: Bearer".to_owned(),
        "Authorization: Bearer none".to_owned(),
        format!("Authorization: {ann}"),
        format!("Authorization: Basic {ann}"),
        format!("Authorization: Bearer{ann}"),
        format!("Authorization: Bearer {ann} {bob}"),
        format!("Authorization: Bearer {ann}, Bearer {bob}"),
        format!("Authorization: Bearer {ann}\r\nAuthorization: Bearer {bob}"),
        format!("Authorization: Bearer {ann}\r\nAuthorization: Bearer {ann}"),
        format!("Authorization: Bearer {removed}"),
        format!("Authorization: Bearer {ann_id}{bob_secret}"),
        format!("Authorization: Bearer {}", &ann[..ann.len() - 1]),
        format!("Authorization: Bearer {ann}A"),
        format!("Authorization: Bearer {}", ann.to_uppercase()),
        format!("Authorization: Bearer \u{e9}{ann}"),
        format!("Authorization: Bearer {}", "x".repeat(60_000)),
        format!("X-Api-Key: Bearer {ann}"),
        format!("X-Api-Key: {ann}\r\nX-Api-Key: {ann}"),
        format!("X-Api-Key: {ann}\r\nAuthorization: Bearer none"),
        format!("X-Api-Key: {ann}\r\nAuthorization: {ann}"),
        format!("Cookie: key={ann}"),
    ];
    for header in bad {
        let reply = request(&server, "GET", "/v1/models", &format!("{header}\r\n")).await;
        assert_eq!(reply.status, 401, "{header}");
        assert!(!reply.body.contains(&ann[12..]), "a key comes back");
    }
    let in_address = request(&server, "GET", &format!("/v1/models?key={ann}"), "").await;
    assert_eq!(in_address.status, 401);
}

#[tokio::test]
async fn an_expired_key_is_told_so() {
    let keys = Keys::none();
    let expired = keys.add("guest", Some(1_700_000_000));
    let server = keys.serve().await;
    let reply = ask_with(&server, &expired).await;
    assert_eq!(reply.status, 401);
    let message = message(&reply);
    assert!(
        message.contains("`guest` expired on 2023-11-14"),
        "{message}"
    );
}

#[tokio::test]
async fn a_header_of_a_megabyte_is_refused_and_the_server_lives() {
    let (keys, key) = Keys::one();
    let server = keys.serve().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    // The server closes before all of it is sent, and what it said may be lost with the connection.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply).await;
    assert!(
        reply.is_empty() || reply.starts_with("HTTP/1.1 431 "),
        "{reply}"
    );
    assert_eq!(ask_with(&server, &key).await.status, 200);
}

#[tokio::test]
async fn a_running_server_notices_keys_that_come_and_go() {
    let keys = Keys::none();
    let server = keys.serve().await;
    let open = request(&server, "GET", "/v1/models", "").await;
    assert_eq!(open.status, 200, "no keys, this machine only: open");

    let ann = keys.add("ann", None);
    until_status(&server, "none", 401).await;
    assert_eq!(ask_with(&server, &ann).await.status, 200);
    let bob = keys.add("bob", None);
    until_status(&server, &bob, 200).await;
    keys.file.remove("ann").unwrap();
    until_status(&server, &ann, 401).await;
    assert_eq!(ask_with(&server, &bob).await.status, 200);
}

#[tokio::test]
async fn damage_to_the_file_opens_nothing() {
    let (keys, ann) = Keys::one();
    let server = keys.serve().await;
    let path = keys.folder.path().join("home").join("keys.json");
    std::fs::write(&path, "{").unwrap();
    // Long enough for several looks at the file.
    let started = Instant::now();
    while started.elapsed().as_millis() < 500 {
        assert_eq!(ask_with(&server, "none").await.status, 401);
        assert_eq!(ask_with(&server, &ann).await.status, 200);
    }
    std::fs::remove_file(&path).unwrap();
    let bob = keys.add("bob", None);
    until_status(&server, &bob, 200).await;
    assert_eq!(ask_with(&server, &ann).await.status, 401);
}

#[tokio::test]
async fn the_users_own_programs_have_a_token() {
    let (keys, _) = Keys::one();
    let server = keys.serve().await;
    let token = keys.token();
    assert_eq!(ask_with(&server, &token).await.status, 200);
    let later = keys.serve().await;
    assert_eq!(ask_with(&later, &token).await.status, 401, "of one start");
}
