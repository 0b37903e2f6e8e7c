//! What is refused at the door: one sentence with the value and a way out, a code that scripts can see, and nothing done.

use std::fs;
use std::process::Command;

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
fn nothing_is_offered_beyond_this_machine() {
    let model = model(SMOLLM2).display().to_string();
    let plaintext = ["not encrypted", "127.0.0.1"];
    refused(&["worker", "--listen", "0.0.0.0:0"], &plaintext);
    refused(&["worker", "--listen", "[::]:0"], &plaintext);
    let stranger = ["--join", "10.1.2.3:7461"];
    for command in [
        ["serve", "--http", "127.0.0.1:0", "--model", &model].as_slice(),
        &["run", "Hello?", "--model", &model],
        &["plan", "--model", &model],
        &["nodes"],
    ] {
        refused(
            &[command, &stranger].concat(),
            &["10.1.2.3", "not encrypted", "127.0.0.1"],
        );
    }
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
    let not_encrypted = [
        "0.0.0.0:0",
        "unencrypted",
        "--tls-cert FILE",
        "--insecure-http",
        "127.0.0.1",
    ];
    check(&serve(&["--http", "0.0.0.0:0"]), &not_encrypted);
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
fn interfaces_that_lead_out_are_refused() {
    let interfaces = if_addrs::get_if_addrs().expect("the interfaces");
    match interfaces.iter().find(|interface| !interface.is_loopback()) {
        None => eprintln!("skipped: this machine has no interface that leads out of it"),
        Some(out) => {
            let parts = [out.name.as_str(), "not encrypted", "loopback"];
            refused(
                &[
                    "worker",
                    "--listen",
                    "127.0.0.1:0",
                    "--interface",
                    &out.name,
                ],
                &parts,
            );
            refused(&["nodes", "--interface", &out.name], &parts);
            let model = model(SMOLLM2).display().to_string();
            refused(
                &["demo", "--model", &model, "--interface", &out.name],
                &parts,
            );
        }
    }
    refused(
        &["nodes", "--interface", "nosuch0"],
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
        ["worker", "--listen", "127.0.0.1:0"].as_slice(),
        &["run", "Hello?", "--no-mdns", "--model", &model],
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
    refused(
        &["worker", "--no-mdns", "--listen", &address],
        &[&address, "another worker"],
    );
    let model = model(SMOLLM2).display().to_string();
    refused(
        &["serve", "--no-mdns", "--model", &model, "--http", &address],
        &[&address, "--http"],
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
