//! A file server that reads its files by io_uring, and a fetch from it:
//! `cargo run -p dmsg-engine --features tokio-uring --example tokio_uring_files -- FOLDER NAME > COPY`.
//!
//! A caller sends a name and FIN, the service sends the file and FIN. A buffer goes from the file into
//! the stream as it is. tokio-uring cannot do without io_uring, so the example asks first.

use std::{error::Error, ffi::OsString, io, path::PathBuf, sync::Arc};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory, Stream},
    driver,
    edge::OwnedStream,
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_uring::{buf::BoundedBuf, fs::File};

/// Longest name that is read, in bytes; the same as on Linux file systems.
const NAME_MAX_BYTES: u64 = 255;

async fn send_file(mut stream: Stream, folder: PathBuf) -> io::Result<()> {
    let mut name = String::new();
    (&mut stream).take(NAME_MAX_BYTES).read_to_string(&mut name).await?;
    if name.is_empty() || name == ".." || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "one plain file name is wanted"));
    }
    let file = File::open(folder.join(name)).await?;
    let (mut buf, mut at) = (vec![0; 64 * 1024], 0);
    loop {
        let (read, lent) = file.read_at(buf, at).await;
        let count = read?;
        if count == 0 {
            break;
        }
        at += count as u64;
        let (written, lent) = stream.write_all_owned(lent.slice(..count)).await;
        written?;
        buf = lent.into_inner();
    }
    file.close().await?;
    stream.shutdown().await
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [folder, name] = &arguments[..] else { return Err("usage: FOLDER NAME".into()) };
    let (folder, name) =
        (PathBuf::from(folder), name.to_str().ok_or("the name is no UTF-8")?.to_owned());
    driver::probe()?;

    let listen = "127.0.0.1:0".parse()?;
    let server = Server::start(ServerConfig::new(SecretKey::generate()?, listen))?;
    let servers = vec![ServerRecord {
        key: server.public_key(),
        address: server.local_addr().to_string(),
        available_sessions: 1,
    }];
    let start = || -> Result<Client, Box<dyn Error>> {
        let directory = StaticDirectory { servers: servers.clone() };
        Ok(Client::start(ClientConfig::new(SecretKey::generate()?), Arc::new(directory))?)
    };
    let (service, caller) = (start()?, start()?);
    tokio_uring::start(async move {
        let port = Port::new(70).ok_or("0 is no port")?;
        let mut listener = service.listen(port)?;
        service.ready().await?;
        tokio_uring::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                let folder = folder.clone();
                tokio_uring::spawn(async move {
                    // The stream is dropped with the error, and the caller sees an early end.
                    if let Err(error) = send_file(stream, folder).await {
                        eprintln!("not sent: {error}");
                    }
                });
            }
        });

        caller.ready().await?;
        let mut stream = caller.dial(Addr { key: service.public_key(), port }).await?;
        stream.write_all_owned(name.into_bytes()).await.0?;
        stream.shutdown().await?;
        let (mut buf, mut bytes) = (Vec::with_capacity(64 * 1024), 0);
        loop {
            let (read, lent) = stream.read_owned(buf).await;
            let count = read?;
            if count == 0 {
                break;
            }
            io::Write::write_all(&mut io::stdout().lock(), &lent[..count])?;
            bytes += count;
            buf = lent;
        }
        eprintln!("{bytes} bytes, through {}", stream.server());
        Ok(())
    })
}
