//! A local network of several machines, made of network namespaces on this one: each host has its own addresses and interfaces,
//! and a switch connects them. Nothing leaves: the switch has a namespace of its own, and no other link.
//!
//! It takes root and the kernel's namespaces; where they are not to be had, [`Lan::new`] says why.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::binary::potluck;
use crate::process::{Invocation, invoke_by};

/// How the names of all namespaces begin that are made here.
const PREFIX: &str = "potluck-test-";

/// A network.
pub struct Lan {
    name: String,
    hosts: Vec<Host>,
}

/// A machine on it.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    switch: String,
    port: String,
    /// Its address on the network.
    pub ip: Ipv4Addr,
}

impl Lan {
    /// A network of `n` hosts; or why it cannot be had here.
    pub fn new(n: u8) -> Result<Lan, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut lan = Lan {
            name: format!("{PREFIX}{}-{count}-s", std::process::id()),
            hosts: Vec::new(),
        };
        ip(&["netns", "add", &lan.name])?;
        let switch = lan.name.clone();
        ip(&[
            "-n",
            &switch,
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for i in 0..n {
            let host = Host {
                namespace: format!("{PREFIX}{}-{count}-{i}", std::process::id()),
                port: format!("p{i}"),
                switch: switch.clone(),
                ip: Ipv4Addr::new(10, 77, 0, 1 + i),
            };
            // Named before it is made, so that it is removed if only half of it comes about.
            lan.hosts.push(host.clone());
            host.plug_in()?;
        }
        Ok(lan)
    }

    /// One of its hosts.
    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// From now on no multicast passes the switch, as with many access points.
    pub fn block_multicast(&self) {
        for host in &self.hosts {
            host.switch_port(&["type", "bridge_slave", "mcast_flood", "off"]);
        }
    }

    /// Writes down all packets on the switch until it is stopped.
    pub fn capture(&self) -> Capture {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, namespace) = (Arc::clone(&stop), self.name.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let socket = packet_socket();
            ready.send(()).expect("somebody waits");
            take_down(socket, &stopped)
        });
        is_ready.recv().expect("the capture begins");
        Capture { stop, thread }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&["netns", "del", &host.namespace]);
        }
        let _ = ip(&["netns", "del", &self.name]);
    }
}

impl Host {
    fn plug_in(&self) -> Result<(), String> {
        let (own, switch, port) = (&self.namespace, &self.switch, &self.port);
        ip(&["netns", "add", own])?;
        ip(&[
            "link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", port, "netns",
            switch,
        ])?;
        ip(&["-n", switch, "link", "set", port, "master", "br0", "up"])?;
        self.set_address(self.ip);
        for interface in ["lo", "eth0"] {
            ip(&["-n", own, "link", "set", interface, "up"])?;
        }
        Ok(())
    }

    /// A command on this host.
    pub fn invoke<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Invocation {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(potluck());
        invoke_by(command, arguments)
    }

    /// Does something with this host's network.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace.clone();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            work()
        });
        thread
            .join()
            .expect("what is done on a host does not panic")
    }

    /// Gives it an address on the network, in place of any other.
    pub fn set_address(&self, ip: Ipv4Addr) {
        self.ip(&["addr", "flush", "dev", "eth0", "scope", "global"]);
        self.ip(&["addr", "add", &format!("{ip}/24"), "dev", "eth0"]);
    }

    /// Gives it an interface as container software makes one, with the address that it has on every machine.
    pub fn add_docker(&self) {
        self.ip(&["link", "add", "docker0", "type", "bridge"]);
        self.ip(&["addr", "add", "172.17.0.1/16", "dev", "docker0"]);
        self.ip(&["link", "set", "docker0", "up"]);
    }

    /// Pulls its cable, or plugs it in again.
    pub fn set_link(&self, state: &str) {
        self.ip(&["link", "set", "eth0", state]);
    }

    /// A change to this host's network, in the words of `ip`.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.namespace], arguments].concat()).expect("the host's network changes");
    }

    /// A change to this host's port of the switch.
    pub fn switch_port(&self, change: &[&str]) {
        let port = ["-n", &self.switch, "link", "set", &self.port];
        ip(&[&port, change].concat()).expect("the switch changes");
    }
}

/// A recording of everything that passes the switch.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

/// What was recorded.
pub struct Recording {
    /// The bytes of every connection, in each direction, as they passed.
    streams: HashMap<[u8; 12], Vec<u8>>,
    datagrams: Vec<Vec<u8>>,
}

impl Capture {
    /// Ends the recording.
    pub fn stop(self) -> Recording {
        self.stop.store(true, Ordering::Relaxed);
        let packets = self.thread.join().expect("the recording");
        let mut recording = Recording {
            streams: HashMap::new(),
            datagrams: Vec::new(),
        };
        packets
            .into_iter()
            .for_each(|packet| recording.sort_in(packet));
        recording
    }
}

impl Recording {
    /// Sorts in an Ethernet frame. The same packet is seen at each port that it passes; only what comes in from a host counts, which
    /// the kernel says by not marking it as outgoing. Here the first sight of a TCP segment is told by its sequence number.
    fn sort_in(&mut self, packet: Vec<u8>) {
        const ETHERNET: usize = 14;
        let is_ipv4 = packet.get(12..14) == Some(&[8, 0]);
        let Some(ip) = packet.get(ETHERNET..).filter(|ip| is_ipv4 && ip.len() > 40) else {
            self.datagrams.push(packet);
            return;
        };
        let (header, total) = (
            usize::from(ip[0] & 15) * 4,
            usize::from(u16::from_be_bytes([ip[2], ip[3]])),
        );
        // Packets that are larger than their field says were put together by the kernel.
        let end = if total == 0 {
            ip.len()
        } else {
            total.min(ip.len())
        };
        if ip[9] != 6 {
            self.datagrams.push(ip[header..end].to_vec());
            return;
        }
        let tcp = &ip[header..end];
        let data = usize::from(tcp[12] >> 4) * 4;
        let mut key = [0; 12];
        key[..8].copy_from_slice(&ip[12..20]);
        key[8..].copy_from_slice(&tcp[..4]);
        let stream = self.streams.entry(key).or_default();
        let seen_before = stream.ends_with(&tcp[data..]);
        if !seen_before {
            stream.extend_from_slice(&tcp[data..]);
        }
    }

    /// Bytes that connections carried.
    pub fn n_bytes(&self) -> usize {
        self.streams.values().map(Vec::len).sum()
    }

    /// Whether these bytes passed in any connection or datagram.
    pub fn holds(&self, needle: &[u8]) -> bool {
        let all = self.streams.values().chain(&self.datagrams);
        all.into_iter()
            .any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    }
}

/// Moves this thread into a namespace.
fn enter(namespace: &str) {
    let path = format!("/var/run/netns/{namespace}");
    let file = File::open(&path).unwrap_or_else(|err| panic!("{path}: {err}"));
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )
    .unwrap_or_else(|err| panic!("{path} cannot be entered: {err}"));
}

/// A socket that is handed every packet of its namespace.
fn packet_socket() -> Socket {
    /// `AF_PACKET` and `ETH_P_ALL` of packet(7).
    const AF_PACKET: i32 = 17;
    const ETH_P_ALL: u16 = 3;
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket =
        Socket::new(Domain::from(AF_PACKET), Type::RAW, Some(protocol)).expect("a packet socket");
    // What does not fit is lost; the kernel grants what it allows.
    let _ = socket.set_recv_buffer_size(256 << 20);
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a time limit");
    socket
}

fn take_down(mut socket: Socket, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match socket.read(&mut buffer) {
            Ok(length) => packets.push(buffer[..length].to_vec()),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return packets;
                }
            }
            Err(err) => panic!("the recording broke off: {err}"),
        }
    }
}

/// Namespaces of test processes that were killed.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir("/var/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Runs `ip`. What it says if it fails is the error.
fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|err| format!("`ip` of iproute2 cannot be run: {err}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
