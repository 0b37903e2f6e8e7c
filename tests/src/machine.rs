//! A machine on a test network, and what its user does there.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Http;
use crate::lan::{Host, Lan};
use crate::models::{SMOLLM2, model};
use crate::process::{Invocation, PATIENCE, Running};

/// A network, or a printed reason why this test is skipped.
pub fn lan(n: u8) -> Option<Lan> {
    match Lan::new(n) {
        Ok(lan) => Some(lan),
        Err(why) => {
            eprintln!("skipped: no network of namespaces is to be had here: {why}");
            None
        }
    }
}

/// A machine with a disk of its own.
pub struct Machine<'a> {
    pub host: &'a Host,
    disk: TempDir,
}

impl<'a> Machine<'a> {
    pub fn new(lan: &'a Lan, i: usize) -> Self {
        Machine {
            host: lan.host(i),
            disk: tempfile::tempdir().expect("a disk"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    pub fn invoke(&self, arguments: &[&str]) -> Invocation {
        self.host
            .invoke(arguments.iter().copied())
            .env("POTLUCK_STATE", self.path("state"))
            .env("POTLUCK_WEIGHTS", self.path("weights"))
            .env("POTLUCK_LOG", "warn")
    }

    /// Starts a coordinator without a worker of its own. Returns it and its first invite.
    pub fn serve(&self, n_workers: usize, more: &[&str]) -> (Running, String) {
        let (model, n_workers) = (model(SMOLLM2).display().to_string(), n_workers.to_string());
        let fixed = [
            "serve",
            "--json",
            "--no-worker",
            "--model",
            &model,
            "--workers",
            &n_workers,
        ];
        let process = self.invoke(&[&fixed, more].concat()).start();
        let (invite, _) = process.event("invite", 0, PATIENCE);
        (
            process,
            invite["invite"].as_str().expect("an invite").to_owned(),
        )
    }

    pub fn invite(&self) -> String {
        let made = self.invoke(&["invite", "--json"]).finish().json();
        made["invite"].as_str().expect("an invite").to_owned()
    }

    pub fn join(&self, invite: &str, name: &str, more: &[&str]) -> Value {
        let arguments = [&["join", "--json", "--name", name, invite], more].concat();
        self.invoke(&arguments).finish().json()
    }

    pub fn worker(&self, more: &[&str]) -> Running {
        let arguments = [&["worker", "--json", "--threads", "1"], more].concat();
        let worker = self.invoke(&arguments).start();
        worker.line("what it offers", 0, PATIENCE, |line| {
            serde_json::from_str::<Value>(line).ok()
        });
        worker
    }

    /// Asks the coordinator on this machine.
    pub fn chat(&self, question: &str) -> String {
        let question = question.to_owned();
        let answer = self
            .host
            .run(move || api().chat(&question, json!({"max_tokens": 16})).ok());
        let text = answer["choices"][0]["message"]["content"].as_str();
        text.unwrap_or_else(|| panic!("no answer: {answer:#}"))
            .to_owned()
    }
}

/// The API on its own machine.
pub fn api() -> Http {
    Http {
        address: SocketAddr::from(([127, 0, 0, 1], 7460)),
    }
}

/// Waits until the coordinator answers. Returns its plan.
pub fn until_ready(coordinator: &Running, since: usize) -> Value {
    let (plan, _) = coordinator.event("planned", since, PATIENCE);
    coordinator.event("ready", since, PATIENCE);
    plan
}
