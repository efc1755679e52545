//! Listening sockets: opened here, or handed over by a service manager.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::NOTSENT_LOWAT_BYTES;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4_096;

/// Opens a listening socket. Accepted sockets inherit its options, which saves calls for each of
/// them.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    listen(socket)
}

/// Uses a socket that another process has opened: like [`bind`], except for the address.
///
/// # Errors
/// It is not a TCP socket that can listen.
pub fn adopt(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    listen(socket.into())
}

fn listen(socket: Socket) -> std::io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Keeps the backlog of a slow client in user space, where it can be conflated.
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    defer_accept(&socket);
    // On a socket that listens already, this changes only the backlog.
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Lets the kernel hold back connections until their first bytes arrive (tcp(7),
/// `TCP_DEFER_ACCEPT`). A handshake is then usually complete when its connection is accepted, and a
/// silent connection costs nothing. After a second of silence a connection is accepted all the
/// same.
#[allow(
    unsafe_code,
    reason = "no crate has this option; without it most handshakes come too late for fast_upgrade::upgrade"
)]
fn defer_accept(socket: &Socket) {
    let seconds: libc::c_int = 1;
    let size = std::mem::size_of::<libc::c_int>();
    // SAFETY: the socket stays open while it is borrowed, and the option's value is read from a
    // local of the given size.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size).unwrap_or_default(),
        )
    };
}
