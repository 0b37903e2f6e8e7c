//! As much of an HTTP client as a chat needs, blocking, with the bytes in plain sight.
//!
//! It speaks HTTP/1.0, so that a reply is simply everything until the connection closes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::process::PATIENCE;

/// A server.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    pub address: SocketAddr,
}

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("not JSON ({err}): {self:?}"))
    }

    /// The reply, which must be a good one, as JSON.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

impl Http {
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "", "").read_all()
    }

    /// As `get`, with an API key.
    pub fn get_with_key(&self, path: &str, key: &str) -> Reply {
        let header = format!("authorization: Bearer {key}\r\n");
        self.request("GET", path, &header, "").read_all()
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, "", &body.to_string()).read_all()
    }

    /// An answer to one question, complete. Greedy unless the options say otherwise.
    pub fn chat(&self, question: &str, options: Value) -> Reply {
        self.post("/v1/chat/completions", &chat(question, options))
    }

    /// An answer to one question, as it comes.
    pub fn chat_stream(&self, question: &str, options: Value) -> Events {
        let mut body = chat(question, options);
        body["stream"] = json!(true);
        let response = self.request("POST", "/v1/chat/completions", "", &body.to_string());
        assert_eq!(response.status, 200, "a stream begins with status 200");
        Events {
            reader: response.reader,
        }
    }

    /// The state of the cluster.
    pub fn status(&self) -> Value {
        self.get("/potluck/v1/status").ok()
    }

    /// `headers` are whole lines.
    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let mut socket = TcpStream::connect(self.address)
            .unwrap_or_else(|err| panic!("no connection to {}: {err}", self.address));
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {}\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(head.as_bytes()).expect("the head is sent");
        socket.write_all(body.as_bytes()).expect("the body is sent");
        Response::begin(BufReader::new(socket))
    }
}

fn chat(question: &str, mut options: Value) -> Value {
    if options.get("temperature").is_none() {
        options["temperature"] = json!(0);
    }
    options["messages"] = json!([{"role": "user", "content": question}]);
    options
}

/// A reply whose head was read.
struct Response {
    status: u16,
    reader: BufReader<TcpStream>,
}

impl Response {
    fn begin(mut reader: BufReader<TcpStream>) -> Response {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a status line");
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line).expect("a header");
        }
        Response { status, reader }
    }

    fn read_all(mut self) -> Reply {
        let mut body = String::new();
        self.reader.read_to_string(&mut body).expect("a body");
        Reply {
            status: self.status,
            body,
        }
    }
}

/// The events of a stream, as they come, until the server closes it.
pub struct Events {
    reader: BufReader<TcpStream>,
}

impl Iterator for Events {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            match self.reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(err) => panic!("the stream broke off: {err}"),
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }
}
