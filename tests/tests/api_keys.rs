//! Keys and certificates of the API, with the program as it is installed. Everything stays on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use potluck_tests::http::Http;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::{Invocation, PATIENCE, Running, invoke};
use serde_json::Value;
use tempfile::TempDir;

/// What lasts of one user's cluster.
struct State(TempDir);

impl State {
    fn new() -> State {
        State(tempfile::tempdir().expect("a folder for the state"))
    }

    /// A command of this user.
    fn invoke(&self, arguments: &[&str]) -> Invocation {
        invoke(arguments).env("POTLUCK_STATE", self.0.path())
    }

    fn keys(&self, arguments: &[&str]) -> Value {
        let arguments = [&["keys"], arguments, &["--json"]].concat();
        self.invoke(&arguments).finish().json()
    }

    fn add(&self, arguments: &[&str]) -> String {
        let key = self.keys(&[&["add"], arguments].concat());
        key["key"].as_str().expect("a key").to_owned()
    }

    /// Starts a server; it has no worker, so it is not ready, and it answers what it is asked about itself.
    fn serve(&self, scheme: &str, more: &[&str]) -> (Running, Http) {
        let model = model(SMOLLM2).display().to_string();
        let fixed = [
            "serve",
            "--no-worker",
            "--no-mdns",
            "--http",
            "127.0.0.1:0",
            "--node-listen",
            "127.0.0.1:0",
            "--model",
            &model,
        ];
        let process = self.invoke(&[&fixed, more].concat()).start();
        let (address, _) = process.line("where it serves", 0, PATIENCE, |line| {
            let (_, rest) = line.split_once(&format!(" at {scheme}://"))?;
            rest.split_once("/v1")?.0.parse::<SocketAddr>().ok()
        });
        (process, Http { address })
    }
}

/// Asks until the status is this: a change of the keys is noticed within moments.
fn until_status(status: u16, ask: impl Fn() -> u16) {
    let started = Instant::now();
    while ask() != status {
        assert!(started.elapsed() < PATIENCE, "never {status}");
    }
}

#[test]
fn keys_are_made_listed_and_removed() {
    let state = State::new();
    assert_eq!(state.keys(&["ls"]).as_array().map(Vec::len), Some(0));
    let ann = state.keys(&["add", "ann", "--expires", "30d"]);
    let lifetime = ann["expires"].as_u64().zip(ann["created"].as_u64());
    assert_eq!(lifetime.map(|(end, made)| (end - made) / 86_400), Some(30));
    let key = ann["key"].as_str().expect("a key");
    let id = ann["id"].as_str().expect("an id");
    assert!(key.starts_with(&format!("pl_{id}_")), "{key}");

    let bob = state.invoke(&["keys", "add", "bob"]).finish().succeeded();
    assert!(bob.stdout.starts_with("pl_") && bob.stdout.lines().count() == 1);
    let again = state.invoke(&["keys", "add", "bob"]).finish().refusal();
    assert!(again.contains("potluck keys rm bob"), "{again}");

    let list = state.keys(&["ls"]);
    let names: Vec<_> = list.as_array().expect("a list").iter().collect();
    assert_eq!(
        (names.len(), &names[0]["id"], &names[1]["expires"]),
        (2, &ann["id"], &Value::Null)
    );
    let shown = state.invoke(&["keys", "ls"]).finish().succeeded().stdout;
    assert!(shown.contains("ann") && !list.to_string().contains(key) && !shown.contains(key));
    let other = state.keys(&["ls", "--cluster", "other"]);
    assert_eq!(other.as_array().map(Vec::len), Some(0), "of its own");

    assert_eq!(state.keys(&["rm", id])["name"], "ann");
    let unknown = state.invoke(&["keys", "rm", "ann"]).finish().refusal();
    assert!(unknown.contains("the keys are bob"), "{unknown}");
}

#[test]
fn a_running_server_asks_for_keys_as_soon_as_there_are_any() {
    let state = State::new();
    let (_server, http) = state.serve("http", &[]);
    assert_eq!(http.get("/v1/models").status, 200, "no keys: open");

    let ann = state.add(&["ann"]);
    until_status(401, || http.get("/v1/models").status);
    let error = http.get("/v1/models").json()["error"].take();
    assert_eq!(
        (&error["type"], &error["code"]),
        (
            &Value::from("authentication_error"),
            &Value::from("invalid_api_key")
        )
    );
    let with = |key: &str| http.get_with_key("/v1/models", key).status;
    assert_eq!((with(&ann), with("none")), (200, 401));
    assert_ne!(http.get("/health").status, 401);

    let at = http.address.to_string();
    let status = ["status", "--json", "--http", &at];
    let own = state.invoke(&status).finish().json();
    assert!(own["state"].is_string(), "on the machine itself: {own}");
    let stranger = || State::new().invoke(&status);
    let refused = stranger().finish().refusal();
    assert!(refused.contains("--api-key-file"), "{refused}");
    let file = state.0.path().join("key");
    std::fs::write(&file, format!("{ann}\n")).expect("a file");
    stranger().env("POTLUCK_API_KEY", &ann).finish().succeeded();
    stranger()
        .env("POTLUCK_API_KEY_FILE", &file)
        .finish()
        .succeeded();

    let bob = state.add(&["bob"]);
    state.keys(&["rm", "ann"]);
    until_status(401, || with(&ann));
    assert_eq!(with(&bob), 200);
}

/// A certificate for `localhost` and its key, as files.
fn certificate(folder: &Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    [
        write("cert.pem", &made.cert.pem()),
        write("key.pem", &made.signing_key.serialize_pem()),
    ]
}

#[test]
fn a_server_with_a_certificate_is_asked_over_https() {
    let state = State::new();
    let [cert, key] = certificate(state.0.path());
    let files = ["--tls-cert", cert.as_str(), "--tls-key", &key];
    let (_server, http) = state.serve("https", &files);
    state.add(&["ann"]);
    let port = http.address.port();
    let (plain, https) = (
        format!("127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
    );
    let status = |http: &str, more: &[&str]| {
        let arguments = [&["status", "--json", "--http", http], more].concat();
        state.invoke(&arguments).finish()
    };
    let report = status(&https, &["--ca", &cert]).json();
    assert!(report["state"].is_string(), "{report}");
    for (said, part) in [
        (status(&plain, &[]), format!("https://{plain}")),
        (status(&https, &[]), "certificate".to_owned()),
        (status(&https, &["--ca", &key]), "CERTIFICATE".to_owned()),
        (
            status(&format!("https://{plain}"), &["--ca", &cert]),
            "certificate".to_owned(),
        ),
    ] {
        let said = said.refusal();
        assert!(said.contains(&part), "`{part}` is missing in: {said}");
    }
}
