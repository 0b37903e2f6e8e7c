//! What is refused at the door: one sentence with the value and a way out, a code that scripts can see, and nothing done.

use std::fs;
use std::process::Command;

use potluck_tests::cluster::Cluster;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::invoke;

/// The sentence of a run that must be refused, in which all these parts must be found.
fn refused(arguments: &[&str], parts: &[&str]) {
    check(&invoke(arguments).finish().refusal(), parts);
}

fn check(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
}

#[test]
fn a_machine_that_has_not_joined_is_told_how() {
    refused(
        &["worker", "--listen", "127.0.0.1:0"],
        &["potluck join INVITE", "potluck invite"],
    );
    for command in [&["nodes"][..], &["nodes", "remove", "pi"], &["invite"]] {
        refused(
            command,
            &["coordinates no cluster called `home`", "potluck serve"],
        );
    }
    let damaged = "pl1:AAAA";
    refused(&["join", damaged], &["incomplete or mistyped"]);
    refused(&["join", "hello"], &["begins with `pl1:`"]);
}

#[test]
fn the_api_is_not_opened_by_accident() {
    let model = model(SMOLLM2).display().to_string();
    let state = tempfile::tempdir().expect("a folder");
    let serve = |more: &[&str]| {
        let fixed = ["serve", "--no-mdns", "--model", &model];
        let arguments = fixed.iter().chain(more);
        let run = invoke(arguments).env("POTLUCK_STATE", state.path());
        run.finish().refusal()
    };
    let no_key = ["0.0.0.0:0", "potluck keys add NAME", "127.0.0.1"];
    check(&serve(&["--http", "0.0.0.0:0"]), &no_key);
    check(&serve(&["--listen", "[::]:0"]), &["[::]:0", no_key[1]]);
    check(&serve(&["--listen=0.0.0.0:0", "--insecure-http"]), &no_key);

    let add = invoke(["keys", "add", "ann"]).env("POTLUCK_STATE", state.path());
    add.finish().succeeded();
    // Another cluster's key is none.
    let other = ["--http", "0.0.0.0:0", "--cluster", "other"];
    check(&serve(&other), &no_key);
    let missing = ["--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem"];
    check(&serve(&missing), &["/no/cert.pem", "--tls-cert"]);
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    refused(&["keys", "add", "a b"], &["`a b`", "letters"]);
    refused(&["keys", "rm", "eve"], &["`eve`", "no keys at all"]);
    refused(
        &["status", "--http", "https://127.0.0.1:1"],
        &["127.0.0.1:1"],
    );
}

#[test]
fn interfaces_that_make_no_sense_are_refused() {
    let model = model(SMOLLM2).display().to_string();
    let demo = ["demo", "--model", &model, "--interface", "nosuch0"];
    refused(&demo, &["nosuch0", "no loopback interface"]);
    refused(
        &[
            "serve",
            "--model",
            &model,
            "--http",
            "127.0.0.1:0",
            "--interface",
            "nosuch0",
        ],
        &["nosuch0", "there is no network interface"],
    );
}

#[test]
fn models_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    };
    let known = ["cannot", "smollm2-135m-instruct-q4_1", "qwen2.5-coder-1.5b"];
    refused(
        &["serve", "--http", "127.0.0.1:0", "--model", "nosuch"],
        &["`nosuch`", known[1], known[2]],
    );
    refused(
        &["run", "Hello?", "--model", "/no/such/file.gguf"],
        &["/no/such/file.gguf", known[1]],
    );

    let whole = fs::read(model(SMOLLM2)).expect("a model");
    let half = write("half.gguf", &whole[..whole.len() / 2]);
    let head = write("head.gguf", &whole[..100]);
    let garbage = write("garbage.gguf", &[0xA5; 4096]);
    let text = write("text.gguf", b"This is not a model.\n");
    let empty = write("empty.gguf", b"");
    let page = write("page.gguf", b"<!DOCTYPE html><html><body>404</body></html>");
    let cases = [
        (&half, "download it again"),
        (&head, "download it again"),
        (&empty, "download it again"),
        (&garbage, "not a GGUF file"),
        (&text, "not a GGUF file"),
        (&page, "not a GGUF file"),
    ];
    for (path, why) in cases {
        refused(&["plan", "--no-mdns", "--model", path], &[path, why]);
        refused(&["eval", "--model", path, "--text", &text], &[path, why]);
        refused(&["bench", "--model", path], &[path, why]);
    }
    refused(&["demo", "--model", &garbage], &["garbage.gguf"]);
    refused(
        &[
            "plan",
            "--no-mdns",
            "--model",
            &folder.path().display().to_string(),
        ],
        &[],
    );
}

#[test]
fn instruction_sets_that_do_not_exist_are_refused() {
    let model = model(SMOLLM2).display().to_string();
    for arguments in [
        ["run", "Hello?", "--no-mdns", "--model", &model].as_slice(),
        &["bench", "--model", &model],
    ] {
        let said = invoke(arguments)
            .env("POTLUCK_ISA", "nonsense")
            .finish()
            .refusal();
        check(&said, &["POTLUCK_ISA", "nonsense", "scalar"]);
    }
    // Here it is the worker processes that refuse, and their words reach the user.
    let demo = invoke(["demo", "--model", &model]).env("POTLUCK_ISA", "nonsense");
    check(
        &demo.finish().refusal(),
        &["POTLUCK_ISA", "nonsense", "scalar"],
    );
}

#[test]
fn options_without_sense_are_refused() {
    let model = model(SMOLLM2).display().to_string();
    let plan = |more: [&'static str; 2]| {
        ["plan", "--no-mdns", "--model", &model]
            .map(str::to_owned)
            .into_iter()
            .chain(more.map(str::to_owned))
    };
    let said = |more| invoke(plan(more)).finish().refusal();
    check(&said(["--context", "0"]), &["--context 0"]);
    check(
        &said(["--context", "999999999"]),
        &["999999999", "was trained for"],
    );
    check(&said(["--stages", "7"]), &["7 stages", "1 workers"]);
    check(
        &said(["--stages=1", "--wait=-1"]),
        &["--wait -1", "negative"],
    );
    refused(
        &["status", "--http", "127.0.0.1:1"],
        &["127.0.0.1:1", "potluck serve"],
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let cluster = Cluster::default();
    let worker = ["worker", "--no-mdns", "--listen", &address];
    let worker = invoke(worker).env("POTLUCK_STATE", cluster.worker_state("ann"));
    check(&worker.finish().refusal(), &[&address, "another worker"]);
    let model = model(SMOLLM2).display().to_string();
    let serve = ["serve", "--no-mdns", "--no-worker", "--model", &model];
    let with = |more: &[&str]| {
        let arguments = serve.iter().chain(more).copied();
        cluster.command(arguments).finish().refusal()
    };
    check(
        &with(&["--http", &address, "--node-listen", "127.0.0.1:0"]),
        &[&address, "--http"],
    );
    check(
        &with(&["--http", "127.0.0.1:0", "--node-listen", &address]),
        &[&address, "--node-listen"],
    );
}

#[test]
fn flags_that_do_not_exist_are_refused() {
    let program = potluck_tests::binary::potluck();
    for arguments in [
        ["serve", "--nosuch"],
        ["nosuch", "--json"],
        ["worker", "--listen=here"],
        ["nodes", "--cluster=../x"],
        ["nodes", "--cluster=Home"],
        ["keys", "--key=x"],
        ["status", "--http=attic"],
    ] {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"error: "), "{arguments:?}");
    }
}
