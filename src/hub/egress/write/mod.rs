//! Writing to sockets. Egress decides what a write carries; a backend makes the writes. Knows no topics and no chunks.

mod backend;
mod epoll;
mod flush;
mod io_uring;

pub(in crate::hub) use backend::backend;
pub(in crate::hub) use epoll::write;
pub(in crate::hub) use flush::{Flush, Outgoing, Sent};

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{ErrorKind, Read};

    use proptest::prelude::*;

    use mio::net::TcpStream;

    use super::epoll::Epoll;
    use super::io_uring::Uring;
    use super::*;

    /// A connection: the end that writes, and the end that reads.
    fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let reader = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (writer, _) = listener.accept().unwrap();
        // Small buffers, so that they fill up; no delay for acknowledgements.
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

    /// Sockets that fill up and are read now and then get every byte once and in order, for any sizes. A closed one is
    /// reported and does not affect the others.
    fn delivers(backend: &mut dyn Flush, sizes: &[(usize, usize)], reads: &[bool], gone: bool) {
        const SOCKETS: usize = 5;
        let mut pairs: Vec<_> = (0..SOCKETS).map(|_| pair()).collect();
        let mut unsent: Vec<VecDeque<u8>> = vec![VecDeque::new(); SOCKETS];
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
                    unsent[index].push_back(byte);
                    sent[index].push(byte);
                }
            }
            let waiting: Vec<Vec<u8>> = unsent.iter().map(|o| o.iter().copied().collect()).collect();
            let mut outgoing: Vec<Outgoing<'_>> = (0..SOCKETS)
                .filter(|i| !waiting[*i].is_empty())
                .map(|i| Outgoing { socket: &pairs[i].0, bytes: &waiting[i], sent: Sent::Gone })
                .collect();
            backend.send(&mut outgoing);
            let outcomes: Vec<Sent> = outgoing.iter().map(|v| v.sent).collect();
            let who: Vec<usize> = (0..SOCKETS).filter(|i| !waiting[*i].is_empty()).collect();
            for (index, outcome) in who.into_iter().zip(outcomes) {
                match outcome {
                    Sent::All => unsent[index].clear(),
                    Sent::Full(n) => drop(unsent[index].drain(..n)),
                    Sent::Gone => {
                        assert_eq!(Some(index), lost, "socket {index} is not closed");
                        unsent[index].clear();
                    }
                }
            }
            if reads.get(round % reads.len().max(1)).copied().unwrap_or(true) {
                for index in 0..SOCKETS {
                    read_all(&mut pairs[index].1, &mut got[index]);
                }
            }
        }
        // The rest is sent as the readers take it.
        for index in (0..SOCKETS).filter(|i| Some(*i) != lost) {
            while got[index].len() < sent[index].len() {
                let waiting: Vec<u8> = unsent[index].iter().copied().collect();
                if !waiting.is_empty() {
                    let mut outgoing = [Outgoing { socket: &pairs[index].0, bytes: &waiting, sent: Sent::Gone }];
                    backend.send(&mut outgoing);
                    match outgoing[0].sent {
                        Sent::All => unsent[index].clear(),
                        Sent::Full(n) => drop(unsent[index].drain(..n)),
                        Sent::Gone => panic!("socket {index} is closed"),
                    }
                }
                if !read_all(&mut pairs[index].1, &mut got[index]) {
                    std::thread::yield_now();
                }
            }
            assert!(got[index] == sent[index], "socket {index}: the bytes differ from those sent");
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
                Err(error) => eprintln!("io_uring skipped: {error}"),
            }
        }
    }

    #[test]
    fn many_writes_in_one_submission() {
        let Ok(mut uring) = Uring::new() else { return eprintln!("io_uring skipped") };
        let mut pairs: Vec<_> = (0..uring.batch() / 4).map(|_| pair()).collect();
        for _ in 0..8 {
            let mut outgoing: Vec<Outgoing<'_>> =
                pairs.iter().map(|(socket, _)| Outgoing { socket, bytes: b"tick", sent: Sent::Gone }).collect();
            uring.send(&mut outgoing);
            assert!(outgoing.iter().all(|v| v.sent == Sent::All));
        }
        for (_, reader) in &mut pairs {
            let mut got = [0u8; 32];
            reader.set_nonblocking(false).unwrap();
            reader.read_exact(&mut got).unwrap();
            assert_eq!(&got, &b"ticktickticktickticktickticktick"[..]);
        }
    }
}
