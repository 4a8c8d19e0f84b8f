//! Streams on runtimes whose reads and writes own their buffers: monoio and tokio-uring.
//!
//! ```text
//!   program on monoio │ tokio-uring      its own ring, its own files and sockets
//!        │ read(buf) → (result, buf)     plaintext is opened right into the buffer that was lent,
//!        ▼ write(buf) → (result, buf)    and sealed right out of it: no second copy
//!     Stream, Listener                   wakers only; the bytes move on the engine's thread
//! ```
//!
//! On a completion ring the kernel needs a buffer to stay where it is while it reads or writes, so
//! these runtimes lend buffers by value. A [`Stream`](crate::client::Stream) needs no such promise: no
//! kernel sees the buffers. It speaks the same traits all the same, so that a buffer that was read
//! from a file by io_uring goes into a stream as it is, and back.
//!
//! The adapters hold no state. They leave pooling, deadlines and splitting to their users. Both
//! runtimes are woken from the engine's thread: monoio needs its feature `sync` for that, which the
//! feature here turns on. Tokio-uring panics where io_uring is forbidden; ask
//! [`driver::probe`](crate::driver::probe) first.

#[cfg(feature = "monoio")]
mod monoio;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;

#[cfg(feature = "tokio-uring")]
pub use self::tokio_uring::OwnedStream;
