//! The memory of buffers that io_uring runtimes lend by value ([`crate::edge`]), as slices.
//!
//! Their traits speak of pointers and of how much is initialised, since the kernel does the filling.
//! Here the stream cipher fills, through a `&mut [u8]`, which must not be uninitialised; so memory
//! that may be is zeroed once per read, at a hundredth of what opening the frames costs. monoio does
//! not tell what is initialised already: there, what a buffer held behind the bytes that were read
//! is gone.

use std::{io, slice, task::Poll};

/// A buffer on loan for one read.
#[derive(Default)]
pub(crate) struct Lent {
    is_zeroed: bool,
}

type Fill = Poll<io::Result<usize>>;

impl Lent {
    /// The `len` bytes at `start` as a slice; zeroes those behind the first `init` the first time.
    ///
    /// # Safety
    /// They are valid for writes, the first `init` of them are initialised, nobody else uses them
    /// while the slice lives, and each call of one `Lent` names the same ones.
    unsafe fn bytes<'a>(&mut self, start: *mut u8, init: usize, len: usize) -> &'a mut [u8] {
        if len == 0 {
            return &mut [];
        }
        let init = init.min(len);
        if !std::mem::replace(&mut self.is_zeroed, true) {
            // SAFETY: valid for writes of `len` bytes, by this function's contract.
            unsafe { start.add(init).write_bytes(0, len - init) };
        }
        // SAFETY: valid and ours by this function's contract, initialised by the line above.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    /// Lets `fill` write into a buffer of monoio from its start.
    #[cfg(feature = "monoio")]
    pub(crate) fn fill_monoio<B: monoio::buf::IoBufMut>(
        &mut self,
        buf: &mut B,
        fill: impl FnOnce(&mut [u8]) -> Fill,
    ) -> Fill {
        let (start, len) = (buf.write_ptr(), buf.bytes_total());
        // SAFETY: `IoBufMut` promises `len` bytes at a stable `start`; `buf` is borrowed mutably.
        let filled = fill(unsafe { self.bytes(start, 0, len) });
        if let Poll::Ready(Ok(count)) = filled {
            assert!(count <= len, "more was filled than there is");
            // SAFETY: all `len` bytes are initialised, and `count` of them at most are named.
            unsafe { buf.set_init(count) };
        }
        filled
    }

    /// Lets `fill` write into the first buffer of a list that has room.
    #[cfg(feature = "monoio")]
    pub(crate) fn fill_monoio_vectored<B: monoio::buf::IoVecBufMut>(
        &mut self,
        buf: &mut B,
        fill: impl FnOnce(&mut [u8]) -> Fill,
    ) -> Fill {
        let (list, count) = (buf.write_iovec_ptr(), buf.write_iovec_len());
        let parts: &[libc::iovec] = match count {
            0 => &[],
            // SAFETY: `IoVecBufMut` promises `count` iovecs at a stable `list`.
            _ => unsafe { slice::from_raw_parts(list, count) },
        };
        let room = parts.iter().find(|part| part.iov_len > 0);
        let (start, len) =
            room.map_or((std::ptr::null_mut(), 0), |part| (part.iov_base.cast(), part.iov_len));
        // SAFETY: it promises that each iovec names memory of `buf`, which is borrowed mutably; the
        // list does not change, so neither does the first with room.
        let filled = fill(unsafe { self.bytes(start, 0, len) });
        if let Poll::Ready(Ok(count)) = filled {
            assert!(count <= len, "more was filled than there is");
            // SAFETY: buffers before it have no room, and in it `count` bytes are initialised.
            unsafe { buf.set_init(count) };
        }
        filled
    }

    /// Lets `fill` write into a buffer of tokio-uring from its start.
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn fill_uring<B: tokio_uring::buf::BoundedBufMut>(
        &mut self,
        buf: &mut B,
        fill: impl FnOnce(&mut [u8]) -> Fill,
    ) -> Fill {
        let (start, init, len) = (buf.stable_mut_ptr(), buf.bytes_init(), buf.bytes_total());
        // SAFETY: `BoundedBufMut` promises `len` bytes at a stable `start`, `init` of them initialised;
        // `buf` is borrowed mutably.
        let filled = fill(unsafe { self.bytes(start, init, len) });
        if let Poll::Ready(Ok(count)) = filled {
            assert!(count <= len, "more was filled than there is");
            // SAFETY: all `len` bytes are initialised, and `count` of them at most are named.
            unsafe { buf.set_init(count) };
        }
        filled
    }
}

/// What a buffer of monoio holds.
#[cfg(feature = "monoio")]
pub(crate) fn monoio_bytes<B: monoio::buf::IoBuf>(buf: &B) -> &[u8] {
    match buf.bytes_init() {
        0 => &[],
        // SAFETY: `IoBuf` promises `len` initialised bytes at a stable pointer; `buf` is borrowed.
        len => unsafe { slice::from_raw_parts(buf.read_ptr(), len) },
    }
}

/// What the first buffer of a list holds that holds anything.
#[cfg(feature = "monoio")]
pub(crate) fn monoio_first_bytes<B: monoio::buf::IoVecBuf>(buf: &B) -> &[u8] {
    let parts: &[libc::iovec] = match buf.read_iovec_len() {
        0 => &[],
        // SAFETY: `IoVecBuf` promises `count` iovecs at a stable pointer; `buf` is borrowed.
        count => unsafe { slice::from_raw_parts(buf.read_iovec_ptr(), count) },
    };
    match parts.iter().find(|part| part.iov_len > 0) {
        // SAFETY: it promises that each iovec names initialised memory of `buf`, which is borrowed.
        Some(part) => unsafe { slice::from_raw_parts(part.iov_base.cast(), part.iov_len) },
        None => &[],
    }
}

/// What a buffer of tokio-uring holds.
#[cfg(feature = "tokio-uring")]
pub(crate) fn uring_bytes<B: tokio_uring::buf::BoundedBuf>(buf: &B) -> &[u8] {
    match buf.bytes_init() {
        0 => &[],
        // SAFETY: `BoundedBuf` promises `len` initialised bytes at a stable pointer; `buf` is borrowed.
        len => unsafe { slice::from_raw_parts(buf.stable_ptr(), len) },
    }
}
