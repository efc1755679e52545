//! WebSocket connections by hand, for clients that no library can act as.

use crate::support::{PATIENCE, Server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The same at any path, with more headers (each with its line end). Returns the head of the answer, too.
pub(crate) fn upgraded(server: &Server, path: &str, headers: &str) -> (TcpStream, String) {
    upgraded_at(server.address, path, headers)
}

/// The same by address.
pub(crate) fn upgraded_at(address: SocketAddr, path: &str, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(
            format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    (stream, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

/// A client frame, masked with zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..126 => out.push(0x80 | u8::try_from(n).unwrap()),
        n => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(n).unwrap().to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// The code of the close frame; earlier frames are ignored.
pub(crate) fn close_code(stream: &mut TcpStream) -> u16 {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("no close frame came");
        let len = match head[1] {
            126 => {
                let mut wide = [0; 2];
                stream.read_exact(&mut wide).unwrap();
                usize::from(u16::from_be_bytes(wide))
            }
            127 => panic!("unexpected"),
            n => usize::from(n),
        };
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).unwrap();
        if head[0] == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}
