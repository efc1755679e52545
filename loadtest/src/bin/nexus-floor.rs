//! The physical limit that servers are compared with. It accepts connections, answers the upgrade, and sends one ready
//! frame per published delta to every socket, by one `send` each or in batches through `io_uring`. It has no topics, no
//! state and no backlog: what a full socket does not take is lost and counted.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use clap::Parser;
use io_uring::{IoUring, opcode, types};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Debug, Parser)]
#[command(about = "A bare fan-out: the lower bound of what a delivery costs")]
struct Args {
    /// Port of loopback
    #[arg(long)]
    port: u16,
    /// Send in batches of 512 through io_uring
    #[arg(long)]
    io_uring: bool,
}

/// The answer to the key that the harness sends (both are in RFC 6455 §1.3).
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const LISTENER: Token = Token(usize::MAX);

/// Number of sends in a submission.
const BATCH: usize = 512;

/// What a connection is for, once its first request says so.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Http,
    Socket,
    Publisher,
}

struct Peer {
    stream: TcpStream,
    role: Role,
    bytes: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut poll = Poll::new()?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], args.port)).into())?;
    socket.listen(4_096)?;
    let mut listener = TcpListener::from_std(socket.into());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        peers: HashMap::new(),
        sockets: Vec::new(),
        next: 0,
        offset: 0,
        lost: 0,
        ring: match args.io_uring {
            true => Some(IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(512)?),
            false => None,
        },
    };
    let mut events = Events::with_capacity(4_096);
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    floor.accept(&poll, stream)?;
                }
            } else if floor.read(event.token().0).is_none() {
                floor.forget(event.token().0);
            }
        }
    }
}

#[derive(Deserialize)]
struct Batch {
    commands: Vec<Command>,
}

#[derive(Deserialize)]
struct Command {
    publish: Publish,
}

#[derive(Deserialize)]
struct Publish {
    channel: String,
    data: Box<RawValue>,
}

struct Floor {
    peers: HashMap<usize, Peer>,
    /// Descriptors of upgraded connections.
    sockets: Vec<i32>,
    next: usize,
    offset: u64,
    lost: u64,
    ring: Option<IoUring>,
}

impl Floor {
    fn accept(&mut self, poll: &Poll, mut stream: TcpStream) -> anyhow::Result<()> {
        self.next += 1;
        poll.registry().register(&mut stream, Token(self.next), Interest::READABLE)?;
        self.peers.insert(self.next, Peer { stream, role: Role::Http, bytes: Vec::new() });
        Ok(())
    }

    fn forget(&mut self, id: usize) {
        if let Some(peer) = self.peers.remove(&id) {
            let fd = peer.stream.as_raw_fd();
            self.sockets.retain(|s| *s != fd);
        }
    }

    /// Reads what is there. `None` if the connection is closed.
    fn read(&mut self, id: usize) -> Option<()> {
        let peer = self.peers.get_mut(&id)?;
        let mut buffer = [0u8; 65_536];
        loop {
            match peer.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => peer.bytes.extend_from_slice(buffer.get(..n)?),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
        }
        if peer.role == Role::Http {
            let head = peer.bytes.windows(4).position(|w| w == b"\r\n\r\n")?.checked_add(4);
            if peer.bytes.starts_with(b"GET") {
                peer.stream.write_all(SWITCH).ok()?;
                peer.bytes.drain(..head?);
                peer.role = Role::Socket;
                let fd = peer.stream.as_raw_fd();
                self.sockets.push(fd);
            } else {
                peer.role = Role::Publisher;
            }
        }
        let peer = self.peers.get_mut(&id)?;
        match peer.role {
            Role::Socket => {
                let bytes = std::mem::take(&mut peer.bytes);
                if let Some(reply) = confirmed(&bytes) {
                    peer.stream.write_all(&frame(reply.to_string().as_bytes())).ok()?;
                }
                Some(())
            }
            Role::Publisher => self.publish(id),
            Role::Http => Some(()),
        }
    }

    /// Handles the complete requests.
    fn publish(&mut self, id: usize) -> Option<()> {
        loop {
            let peer = self.peers.get_mut(&id)?;
            let Some(head) = peer.bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Some(()) };
            let text = String::from_utf8_lossy(peer.bytes.get(..head)?).to_ascii_lowercase();
            let length =
                text.lines().find_map(|l| l.strip_prefix("content-length:")).and_then(|n| n.trim().parse().ok());
            let end = head + 4 + length.unwrap_or(0usize);
            let Some(body) = peer.bytes.get(head + 4..end) else { return Some(()) };
            let Batch { commands } = serde_json::from_slice(body).ok()?;
            peer.bytes.drain(..end);
            let mut replies = Vec::new();
            for Command { publish: Publish { channel: topic, data } } in commands {
                let prev = self.offset;
                self.offset += 1;
                let offset = self.offset;
                let message = format!(
                    "{{\"topic\":\"{topic}\",\"type\":\"delta\",\"offset\":{offset},\"prev\":{prev},\"data\":{data}}}"
                );
                self.send(&frame(message.as_bytes())).ok()?;
                replies.push(json!({"publish": {"offset": offset}}));
            }
            let reply = json!({"replies": replies}).to_string();
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{reply}",
                reply.len()
            );
            self.peers.get_mut(&id)?.stream.write_all(response.as_bytes()).ok()?;
        }
    }

    /// The fan-out.
    fn send(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        let mut lost = 0;
        match &mut self.ring {
            None => {
                for peer in self.peers.values_mut().filter(|p| p.role == Role::Socket) {
                    lost += u64::from(!matches!(peer.stream.write(frame), Ok(n) if n == frame.len()));
                }
            }
            Some(ring) => {
                let len = u32::try_from(frame.len()).context("a frame of over 4 GiB")?;
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                for batch in self.sockets.chunks(BATCH) {
                    for fd in batch {
                        let entry = opcode::Send::new(types::Fd(*fd), frame.as_ptr(), len);
                        let entry = entry.flags(flags.bits().cast_signed()).build();
                        // SAFETY: `frame` outlives the wait below, which ends when the whole batch has completed. The
                        // ring has as many entries as a batch.
                        #[allow(unsafe_code, reason = "io_uring takes raw pointers; see SAFETY")]
                        unsafe { ring.submission().push(&entry) }?;
                    }
                    let mut done = 0;
                    while done < batch.len() {
                        ring.submit_and_wait(batch.len() - done)?;
                        for entry in ring.completion() {
                            done += 1;
                            lost += u64::from(u32::try_from(entry.result()) != Ok(len));
                        }
                    }
                }
            }
        }
        if lost > 0 {
            self.lost += lost;
            eprintln!("{} frames were lost at full sockets", self.lost);
        }
        Ok(())
    }
}

/// A server frame with text.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(n @ 0..126), _) => frame.push(n),
        (_, Ok(n)) => {
            frame.push(126);
            frame.extend(n.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// The reply to a subscribe, which is a small masked frame.
fn confirmed(bytes: &[u8]) -> Option<Value> {
    let (at, len) = match bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        n => (2, usize::from(n)),
    };
    let mask = bytes.get(at..at + 4)?;
    let payload = bytes.get(at + 4..at + 4 + len)?;
    let text: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k).collect();
    let command: Value = serde_json::from_slice(&text).ok()?;
    let standing = |topic: &Value| Some((topic.as_str()?.to_owned(), json!({"offset": 0, "epoch": "floor"})));
    let topics: serde_json::Map<_, _> = command.get("args")?.as_array()?.iter().filter_map(standing).collect();
    Some(json!({"id": command.get("id"), "op": "subscribe", "ok": true, "topics": topics}))
}
