//! Many writes with one system call: a batch of `send`s through an `io_uring`.
//!
//! Every send has `MSG_DONTWAIT`, so the kernel completes it within the submission: when [`Flush::send`] returns, no
//! send is in progress and the shard may reuse the buffers. After a partial send an ordinary write follows, whose
//! refusal makes `mio` report the socket as writable later.

use std::io;
use std::os::fd::AsRawFd as _;

use io_uring::{IoUring, Probe, opcode, types};

use super::epoll::write;
use super::flush::{Flush, Outgoing, Sent};

/// Sends per submission. A larger number saves nothing: the cost of the call is already spread thin.
const ENTRIES: u32 = 512;

/// The ring of one shard, created and used by its thread only.
pub(in crate::hub) struct Uring {
    ring: IoUring,
    /// The ring failed: from then on, each write is a system call.
    broken: bool,
}

impl Uring {
    /// Creates a ring, if the kernel supports all that is needed.
    ///
    /// # Errors
    /// If `io_uring` is missing, forbidden, or too old (`DEFER_TASKRUN` needs Linux 6.1).
    pub(in crate::hub) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .dontfork()
            .build(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Send::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring has no send"));
        }
        Ok(Self { ring, broken: false })
    }

    /// Makes at most [`ENTRIES`] writes.
    fn submit(&mut self, outgoing: &mut [Outgoing<'_>]) {
        let mut queued = 0;
        for (one, tag) in outgoing.iter_mut().zip(0u64..) {
            one.sent = Sent::Full(0);
            let len = u32::try_from(one.bytes.len()).unwrap_or(u32::MAX);
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            let entry = opcode::Send::new(types::Fd(one.socket.as_raw_fd()), one.bytes.as_ptr(), len)
                .flags(flags.bits().cast_signed())
                .build()
                .user_data(tag);
            // SAFETY: the entry points at `one.bytes` and its socket, which `outgoing` borrows for longer than this
            // function runs. The loop below does not end before every entry that the kernel took has completed.
            #[allow(unsafe_code, reason = "io_uring takes raw pointers; see SAFETY")]
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                break;
            }
            queued += 1;
        }
        let (mut taken, mut completed) = (0, 0);
        while completed < queued {
            match self.ring.submit_and_wait(queued - completed) {
                Ok(n) => taken += n,
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc_codes::EINTR | libc_codes::EAGAIN | libc_codes::EBUSY)) => {
                }
                Err(error) => {
                    tracing::error!(%error, "io_uring failed, using epoll from now on");
                    self.broken = true;
                }
            }
            for entry in self.ring.completion() {
                completed += 1;
                let Some(one) = usize::try_from(entry.user_data()).ok().and_then(|tag| outgoing.get_mut(tag)) else {
                    continue;
                };
                one.sent = match entry.result() {
                    n if n >= 0 => Sent::Full(usize::try_from(n).unwrap_or(0)),
                    e if matches!(-e, libc_codes::EAGAIN | libc_codes::EINTR) => Sent::Full(0),
                    _ => Sent::Gone,
                };
            }
            // Every send that the kernel took has completed: nothing points at the buffers any more.
            if self.broken && completed >= taken {
                break;
            }
        }
        for one in outgoing.iter_mut() {
            one.sent = match one.sent {
                Sent::Full(n) if n >= one.bytes.len() => Sent::All,
                Sent::Full(n) => write(one.socket, one.bytes, n),
                other => other,
            };
        }
    }
}

impl Flush for Uring {
    fn batch(&self) -> usize {
        ENTRIES as usize
    }

    fn send(&mut self, outgoing: &mut [Outgoing<'_>]) {
        for batch in outgoing.chunks_mut(ENTRIES as usize) {
            // One or two writes are not worth a submission.
            if self.broken || batch.len() < 3 {
                for one in batch {
                    one.sent = write(one.socket, one.bytes, 0);
                }
            } else {
                self.submit(batch);
            }
        }
    }

    fn name(&self) -> &'static str {
        if self.broken { "epoll" } else { "io_uring" }
    }
}

/// Error numbers as the completion queue has them.
mod libc_codes {
    pub(super) const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
    pub(super) const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
    pub(super) const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
}
