//! Sockets that listen: opened here, or handed over.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::NOTSENT_LOWAT_BYTES;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4_096;

/// Opens the one port. What is set here, accepted sockets inherit: no call for each of them.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    listen(socket)
}

/// Makes one port of a socket that another process has opened: as [`bind`], but for the address.
///
/// # Errors
/// If it is no TCP socket that can listen.
pub fn adopt(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    listen(socket.into())
}

fn listen(socket: Socket) -> std::io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // The backlog of a slow client stays on our side, where it can be conflated.
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    defer_accept(&socket);
    // Of one that listens already, this changes the backlog alone.
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Lets the kernel keep connections to itself until their first bytes are there (tcp(7), `TCP_DEFER_ACCEPT`): a handshake is
/// then whole when its connection is accepted, and who connects and says nothing costs us nothing. After a second of
/// silence a connection is accepted all the same.
#[allow(
    unsafe_code,
    reason = "no crate has this option; without it most handshakes come too late for express::upgrade"
)]
fn defer_accept(socket: &Socket) {
    let seconds: libc::c_int = 1;
    let size = std::mem::size_of::<libc::c_int>();
    // SAFETY: the socket is open for as long as it is borrowed, and the option's value is read from a local of the size
    // that is given.
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
