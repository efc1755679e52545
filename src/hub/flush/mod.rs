//! Writing to sockets. The shard decides what goes in a visit; a backend makes the visits.
//!
//! The contract, whatever the backend: the bytes of one socket leave in order, each byte once, and before [`Flush::send`]
//! returns; [`Sent::Full`] tells how many left before the kernel would take no more, and the caller keeps the rest and
//! calls again only after the poll said that the socket is writable.

mod epoll;
mod uring;

use mio::net::TcpStream;

pub(super) use epoll::{Epoll, write};
pub(super) use uring::Uring;

use crate::config::FlushBackend;

/// What became of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything left.
    All,
    /// The socket is full; this many bytes left.
    Full(usize),
    /// The connection is gone.
    Gone,
}

/// One visit: a socket, and what it is to get. No two of a batch are to one socket.
pub(super) struct Outgoing<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) bytes: &'a [u8],
    /// Set by the backend.
    pub(super) sent: Sent,
}

/// A way to write to sockets.
pub(super) trait Flush {
    /// Visits that are best made together.
    fn batch(&self) -> usize;

    /// Makes the visits: writes to each socket as much as it takes.
    fn send(&mut self, visits: &mut [Outgoing<'_>]);

    /// As people are told.
    fn name(&self) -> &'static str;
}

static SAID: std::sync::Once = std::sync::Once::new();

/// The backend that a shard has, made on its own thread. Where `io_uring` cannot be had, that is epoll; it is said
/// why if it was asked for by name.
pub(super) fn backend(wanted: FlushBackend) -> Box<dyn Flush> {
    if wanted == FlushBackend::Epoll {
        return Box::new(Epoll);
    }
    match Uring::new() {
        Ok(uring) => Box::new(uring),
        Err(error) => {
            match wanted {
                FlushBackend::IoUring => tracing::warn!(%error, "server.flush: io_uring cannot be had, using epoll"),
                // Once is enough for all shards.
                _ => SAID.call_once(|| tracing::info!(%error, "io_uring cannot be had, using epoll")),
            }
            Box::new(Epoll)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{ErrorKind, Read};

    use proptest::prelude::*;

    use super::*;

    /// A connection: what writes, and what reads it.
    fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let reader = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (writer, _) = listener.accept().unwrap();
        // Small, so that they fill up; and no waiting for acknowledgements.
        socket2::SockRef::from(&writer).set_send_buffer_size(16_384).unwrap();
        socket2::SockRef::from(&reader).set_recv_buffer_size(16_384).unwrap();
        writer.set_nodelay(true).unwrap();
        writer.set_nonblocking(true).unwrap();
        reader.set_nonblocking(true).unwrap();
        (TcpStream::from_std(writer), reader)
    }

    fn read_all(reader: &mut std::net::TcpStream, got: &mut Vec<u8>) -> bool {
        let mut buffer = [0u8; 65_536];
        let before = got.len();
        loop {
            match reader.read(&mut buffer) {
                Ok(n) if n > 0 => got.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return got.len() > before,
                _ => return got.len() > before,
            }
        }
    }

    /// Sockets that fill up and are read now and then get every byte once and in order, whatever the sizes; one that is
    /// gone is said to be gone and does not hurt the others.
    fn delivers(backend: &mut dyn Flush, sizes: &[(usize, usize)], reads: &[bool], gone: bool) {
        const SOCKETS: usize = 5;
        let mut pairs: Vec<_> = (0..SOCKETS).map(|_| pair()).collect();
        let mut owed: Vec<VecDeque<u8>> = vec![VecDeque::new(); SOCKETS];
        let mut sent: Vec<Vec<u8>> = vec![Vec::new(); SOCKETS];
        let mut got: Vec<Vec<u8>> = vec![Vec::new(); SOCKETS];
        let mut byte = 0u8;
        let lost = gone.then_some(SOCKETS - 1);
        if let Some(lost) = lost {
            let reader = pairs[lost].1.try_clone().unwrap();
            socket2::SockRef::from(&reader).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(reader);
            let (_, dead) = pair();
            drop(std::mem::replace(&mut pairs[lost].1, dead));
        }
        for (round, (socket, size)) in sizes.iter().enumerate() {
            for index in 0..SOCKETS {
                let size = if index == socket % SOCKETS { *size } else { size % 61 };
                for _ in 0..size {
                    byte = byte.wrapping_add(1);
                    owed[index].push_back(byte);
                    sent[index].push(byte);
                }
            }
            let waiting: Vec<Vec<u8>> = owed.iter().map(|o| o.iter().copied().collect()).collect();
            let mut visits: Vec<Outgoing<'_>> = (0..SOCKETS)
                .filter(|i| !waiting[*i].is_empty())
                .map(|i| Outgoing { socket: &pairs[i].0, bytes: &waiting[i], sent: Sent::Gone })
                .collect();
            backend.send(&mut visits);
            let outcomes: Vec<Sent> = visits.iter().map(|v| v.sent).collect();
            let who: Vec<usize> = (0..SOCKETS).filter(|i| !waiting[*i].is_empty()).collect();
            for (index, outcome) in who.into_iter().zip(outcomes) {
                match outcome {
                    Sent::All => owed[index].clear(),
                    Sent::Full(n) => drop(owed[index].drain(..n)),
                    Sent::Gone => {
                        assert_eq!(Some(index), lost, "socket {index} is not gone");
                        owed[index].clear();
                    }
                }
            }
            if reads.get(round % reads.len().max(1)).copied().unwrap_or(true) {
                for index in 0..SOCKETS {
                    read_all(&mut pairs[index].1, &mut got[index]);
                }
            }
        }
        // What is left goes out as the readers take it.
        for index in (0..SOCKETS).filter(|i| Some(*i) != lost) {
            while got[index].len() < sent[index].len() {
                let waiting: Vec<u8> = owed[index].iter().copied().collect();
                if !waiting.is_empty() {
                    let mut visits = [Outgoing { socket: &pairs[index].0, bytes: &waiting, sent: Sent::Gone }];
                    backend.send(&mut visits);
                    match visits[0].sent {
                        Sent::All => owed[index].clear(),
                        Sent::Full(n) => drop(owed[index].drain(..n)),
                        Sent::Gone => panic!("socket {index} is gone"),
                    }
                }
                if !read_all(&mut pairs[index].1, &mut got[index]) {
                    std::thread::yield_now();
                }
            }
            assert!(got[index] == sent[index], "socket {index}: other bytes than were sent");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn both_backends_send_every_byte_once_and_in_order(
            sizes in prop::collection::vec((0usize..5, 0usize..90_000), 1..8),
            reads in prop::collection::vec(any::<bool>(), 1..6),
            gone in any::<bool>(),
        ) {
            delivers(&mut Epoll, &sizes, &reads, gone);
            match Uring::new() {
                Ok(mut uring) => delivers(&mut uring, &sizes, &reads, gone),
                Err(error) => eprintln!("io_uring left out: {error}"),
            }
        }
    }

    #[test]
    fn many_visits_in_one_submission() {
        let Ok(mut uring) = Uring::new() else { return eprintln!("io_uring left out") };
        let mut pairs: Vec<_> = (0..uring.batch() / 4).map(|_| pair()).collect();
        for _ in 0..8 {
            let mut visits: Vec<Outgoing<'_>> =
                pairs.iter().map(|(socket, _)| Outgoing { socket, bytes: b"tick", sent: Sent::Gone }).collect();
            uring.send(&mut visits);
            assert!(visits.iter().all(|v| v.sent == Sent::All));
        }
        for (_, reader) in &mut pairs {
            let mut got = [0u8; 32];
            reader.set_nonblocking(false).unwrap();
            reader.read_exact(&mut got).unwrap();
            assert_eq!(&got, &b"ticktickticktickticktickticktick"[..]);
        }
    }
}
