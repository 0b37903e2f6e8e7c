//! What keeps machines from finding and using each other: checks that each say what they found, and how to mend it.
//!
//! `machine.rs` looks at this machine alone, `network.rs` at its interfaces and who is heard on them, `cluster.rs` at the cluster that
//! it belongs to or coordinates, from both ends.

pub mod cluster;
pub mod machine;
pub mod network;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// It works, but not as well as it could, or not in every case.
    Warning,
    Failed,
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at: `multicast`, `clock`, ... The same word in every version.
    pub check: &'static str,
    pub status: Status,
    /// What is the case.
    pub found: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Ok,
            found: found.into(),
            fix: None,
        }
    }

    pub fn warning(
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            status: Status::Warning,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    pub fn failed(
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            status: Status::Failed,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    /// A line, and another with what to do.
    pub fn text(&self) -> String {
        let mark = match self.status {
            Status::Ok => "ok     ",
            Status::Warning => "warning",
            Status::Failed => "FAILED ",
        };
        let fix = self
            .fix
            .as_ref()
            .map(|fix| format!("\n           -> {fix}"));
        format!(
            "{mark}  {}: {}{}",
            self.check,
            self.found,
            fix.unwrap_or_default()
        )
    }
}

/// How to let a port through the firewall that this system seems to have.
pub fn open_port(port: u16) -> String {
    let exists = |path: &str| std::path::Path::new(path).exists();
    match () {
        () if cfg!(windows) => format!(
            "netsh advfirewall firewall add rule name=potluck dir=in action=allow protocol=TCP localport={port}"
        ),
        () if cfg!(target_os = "macos") => {
            "System Settings, Network, Firewall: allow incoming connections for potluck".to_owned()
        }
        () if exists("/usr/sbin/ufw") => format!("sudo ufw allow {port}/tcp"),
        () if exists("/usr/bin/firewall-cmd") => {
            format!(
                "sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload"
            )
        }
        () => format!("allow incoming TCP connections to port {port} in that machine's firewall"),
    }
}
