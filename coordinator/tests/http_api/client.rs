//! As much of an HTTP client as the tests need, with the bytes in plain sight.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::PATIENCE;

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The data of server-sent events; comments are left out.
    pub fn events(&self) -> Vec<String> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_owned)
            .collect()
    }

    /// The events that are JSON.
    pub fn chunks(&self) -> Vec<Value> {
        self.events()
            .iter()
            .filter_map(|event| serde_json::from_str(event).ok())
            .collect()
    }
}

/// A chat with one message.
pub fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

/// `base` with the fields of `extra` on top.
pub fn with(mut base: Value, extra: Value) -> Value {
    let fields = extra.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(fields);
    base
}

pub fn post(body: &[u8]) -> Vec<u8> {
    post_to("/v1/chat/completions", body)
}

pub fn post_to(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub async fn ask(address: SocketAddr, body: &Value) -> Reply {
    ask_at(address, "/v1/chat/completions", body).await
}

pub async fn ask_at(address: SocketAddr, path: &str, body: &Value) -> Reply {
    send(address, &post_to(path, body.to_string().as_bytes())).await
}

pub async fn get(address: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    send(address, request.as_bytes()).await
}

/// Sends these bytes and reads the reply to its end.
pub async fn send(address: SocketAddr, request: &[u8]) -> Reply {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        parse(&reply)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("a reply in time")
}

/// Sends a request and reads until `needle` has come; the connection stays open as long as the caller keeps it.
pub async fn open(address: SocketAddr, request: &[u8], needle: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(needle) {
            assert_ne!(
                stream.read_buf(&mut seen).await.unwrap(),
                0,
                "closed too early"
            );
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("a beginning in time");
    stream
}

fn parse(reply: &[u8]) -> Reply {
    let text = String::from_utf8(reply.to_vec()).expect("only UTF-8 is ever sent");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        dechunked(body)
    } else {
        body.to_owned()
    };
    Reply {
        status,
        head: head.to_owned(),
        body,
    }
}

fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").expect("a chunk's length");
        let length = usize::from_str_radix(length, 16).expect("in hexadecimal digits");
        if length == 0 {
            return body;
        }
        body.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
}
