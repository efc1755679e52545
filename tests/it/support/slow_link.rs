//! A link to a server that is narrow, long, or both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Bytes carried at a time, and the number of such pieces on their way.
const PIECE: usize = 8 * 1024;
const PIECES: usize = 64;

/// The system's buffers at either end: with larger ones, a link is never full.
const BUFFER: u32 = 64 * 1024;

/// The properties of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// Bytes per second from the server, and to it.
    pub(crate) down: usize,
    pub(crate) up: usize,
    /// Delay of each byte, each way.
    pub(crate) delay: Duration,
}

impl Default for Way {
    fn default() -> Self {
        Self { down: usize::MAX, up: usize::MAX, delay: Duration::ZERO }
    }
}

/// A port that forwards everything to a server's port.
pub(crate) struct SlowLink {
    pub(crate) port: u16,
    down: Arc<AtomicUsize>,
    up: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl SlowLink {
    pub(crate) fn to(server_port: u16, way: Way) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let [down, up, connections] = [0; 3].map(|_| Arc::new(AtomicUsize::new(0)));
        let counters = [down.clone(), up.clone(), connections.clone()];
        // On its own thread, because tests block.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap().port()).unwrap();
                while let Ok((near, _)) = listener.accept().await {
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_recv_buffer_size(BUFFER).unwrap();
                    let Ok(far) = socket.connect(([127, 0, 0, 1], server_port).into()).await else { continue };
                    counters[2].fetch_add(1, Ordering::SeqCst);
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::spawn(carry(from_far, to_near, way.down, way.delay, counters[0].clone()));
                    tokio::spawn(carry(from_near, to_far, way.up, way.delay, counters[1].clone()));
                }
            });
        });
        Self { port: receiver.recv().unwrap(), down, up, connections }
    }

    /// Bytes from the server so far.
    pub(crate) fn carried(&self) -> usize {
        self.down.load(Ordering::SeqCst)
    }

    /// Bytes to the server so far.
    pub(crate) fn sent(&self) -> usize {
        self.up.load(Ordering::SeqCst)
    }

    /// Number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Carries bytes at the given rate and delay; the sleep enforces both.
async fn carry(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin,
    bytes_per_second: usize,
    delay: Duration,
    carried: Arc<AtomicUsize>,
) {
    let (send, mut sent) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    tokio::spawn(async move {
        let mut free = Instant::now();
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            free = free.max(Instant::now()) + Duration::from_secs_f64(count as f64 / bytes_per_second as f64);
            sleep_until(free).await;
            if send.send((free + delay, piece[..count].to_vec())).await.is_err() {
                break;
            }
        }
    });
    while let Some((due, piece)) = sent.recv().await {
        sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            break;
        }
        carried.fetch_add(piece.len(), Ordering::SeqCst);
    }
    let _ = to.shutdown().await;
}

/// A link to a server that carries this many bytes per second, and breaks after a number of bytes (0: never).
pub(crate) async fn way(server_port: u16, bytes_per_second: usize, breaks_after: usize) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (began, mut passed) = (tokio::time::Instant::now(), 0);
                let mut piece = vec![0; 16 * 1024];
                while let Ok(n @ 1..) = from_server.read(&mut piece).await {
                    passed += n;
                    let due = std::time::Duration::from_secs_f64(passed as f64 / bytes_per_second as f64);
                    tokio::time::sleep_until(began + due).await;
                    if to_client.write_all(&piece[..n]).await.is_err() || (breaks_after > 0 && passed > breaks_after) {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    port
}
