//! SOCKS5 (RFC 1928): CONNECT without authentication.
//!
//! ```text
//!   program                                   we
//!   5, n, n methods                    ──▶
//!                                      ◀──    5, 0 (no authentication) │ 255 (none of those)
//!   5, 1, 0, type, address, port       ──▶
//!                                      ◀──    5, reply, 0, 1, 0.0.0.0, 0
//!   bytes                              ◀─▶    bytes
//! ```
//!
//! Names come to us as names, so `<key>.dmsg` needs no DNS (`curl --socks5-hostname`; with `--socks5`, curl would look the name
//! up itself and fail). Sixty lines of our own: the libraries bring authentication, UDP and resolvers along.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{ConnectError, Destination, GREETING_TIMEOUT, Shared, tunnel};
use crate::http::{Dial, Socket};

/// The first byte of everything a program says.
pub(super) const VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const NONE_OF_THOSE: u8 = 255;
const CONNECT: u8 = 1;

/// What a CONNECT is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Reply {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

/// Serves one connection to its end. `place` is one among those that have not said yet what they want.
pub(super) async fn serve<D: Dial, P>(
    mut program: Socket,
    shared: &Shared<D>,
    place: P,
) -> io::Result<()> {
    let asked = timeout(GREETING_TIMEOUT, greet(&mut program)).await;
    drop(place);
    let asked = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let connected = match asked {
        Ok((host, port)) => match Destination::parse(&host, port) {
            Ok(to) => shared.connect(to).await.map_err(|error| {
                tracing::info!(%host, %error, "SOCKS: not connected");
                reply_of(&error)
            }),
            Err(error) => {
                tracing::info!(%host, %error, "SOCKS: not connected");
                Err(Reply::HostUnreachable)
            }
        },
        Err(reply) => Err(reply),
    };
    match connected {
        Ok(far) => {
            reply(&mut program, Reply::Succeeded).await?;
            let end = program.break_off();
            tunnel::run::<_, D>((program, Some(end)), far).await.map(drop)
        }
        Err(refused) => {
            reply(&mut program, refused).await?;
            program.shutdown().await
        }
    }
}

/// The host and port that a program asks for, or the reply that it gets instead.
async fn greet<T: AsyncRead + AsyncWrite + Unpin>(
    program: &mut T,
) -> io::Result<Result<(String, u16), Reply>> {
    let [version, count] = read(program).await?;
    check_version(version)?;
    let mut methods = vec![0; usize::from(count)];
    program.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        program.write_all(&[VERSION, NONE_OF_THOSE]).await?;
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the program insists on authentication, which this proxy has none of",
        ));
    }
    program.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _reserved, kind] = read(program).await?;
    check_version(version)?;
    let host = match kind {
        1 => Ipv4Addr::from(read::<_, 4>(program).await?).to_string(),
        3 => {
            let [length] = read(program).await?;
            let mut name = vec![0; usize::from(length)];
            program.read_exact(&mut name).await?;
            match String::from_utf8(name) {
                Ok(name) => name,
                Err(_) => return Ok(Err(Reply::AddressNotSupported)),
            }
        }
        4 => Ipv6Addr::from(read::<_, 16>(program).await?).to_string(),
        // Its length is unknown, so is where the request ends.
        _ => return Ok(Err(Reply::AddressNotSupported)),
    };
    let port = u16::from_be_bytes(read(program).await?);
    Ok(if command == CONNECT { Ok((host, port)) } else { Err(Reply::CommandNotSupported) })
}

async fn read<T: AsyncRead + Unpin, const N: usize>(program: &mut T) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    program.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn check_version(version: u8) -> io::Result<()> {
    if version == VERSION {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("SOCKS version {version}, not 5")))
}

async fn reply<T: AsyncWrite + Unpin>(program: &mut T, reply: Reply) -> io::Result<()> {
    // Where we connected from is nobody's business: an IPv4 address of zeroes.
    program.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

fn reply_of(error: &ConnectError) -> Reply {
    match error {
        error if error.is_refusal() => Reply::NotAllowed,
        ConnectError::Clearnet(_) | ConnectError::Dial(_) | ConnectError::TimedOut => {
            Reply::HostUnreachable
        }
        ConnectError::TooMany => Reply::Failed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a program that says `bytes` gets, and what is read of it.
    async fn greeted(bytes: &[u8]) -> (Vec<u8>, io::Result<Result<(String, u16), Reply>>) {
        let (mut program, mut ours) = tokio::io::duplex(1024);
        program.write_all(bytes).await.unwrap();
        program.shutdown().await.unwrap();
        let asked = greet(&mut ours).await;
        drop(ours);
        let mut said = Vec::new();
        program.read_to_end(&mut said).await.unwrap();
        (said, asked)
    }

    #[tokio::test]
    async fn names_and_addresses_are_read() {
        for (bytes, host) in [
            (&b"\x05\x01\x00\x05\x01\x00\x03\x04host\x1f\x90"[..], "host"),
            (b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x90", "127.0.0.1"),
            (b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x90", "::1"),
        ] {
            let (said, asked) = greeted(bytes).await;
            assert_eq!(said, [5, 0]);
            assert_eq!(asked.unwrap(), Ok((host.to_owned(), 8080)));
            // Cut anywhere, it is an error and never a request.
            for cut in 0..bytes.len() {
                assert!(greeted(&bytes[..cut]).await.1.is_err(), "{host} cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused() {
        let (said, asked) = greeted(b"\x05\x01\x02").await;
        assert_eq!((said, asked.is_err()), (vec![5, 255], true));
        assert!(greeted(b"\x04\x01\x00\x50").await.1.is_err());
        let bind = b"\x05\x01\x00\x05\x02\x00\x03\x04host\x00\x50";
        assert_eq!(greeted(bind).await.1.unwrap(), Err(Reply::CommandNotSupported));
        let kind = b"\x05\x01\x00\x05\x01\x00\x02";
        assert_eq!(greeted(kind).await.1.unwrap(), Err(Reply::AddressNotSupported));
        let name = b"\x05\x01\x00\x05\x01\x00\x03\x02\xff\xfe\x00\x50";
        assert_eq!(greeted(name).await.1.unwrap(), Err(Reply::AddressNotSupported));
    }
}
