//! An echo service on monoio, and a caller on it: `cargo run -p dmsg-engine --features monoio --example monoio_echo`.
//!
//! Where io_uring is forbidden, monoio runs on epoll, and so does the engine.

use std::{error::Error, sync::Arc};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory, Stream},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use monoio::io::{
    AsyncReadRent, AsyncReadRentExt, AsyncWriteRent, AsyncWriteRentExt, stream::Stream as _,
};

/// Sends back what comes, in the one buffer that is lent to the reads and to the writes in turn.
async fn echo(mut stream: Stream) -> std::io::Result<()> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        let (read, lent) = stream.read(buf).await;
        if read? == 0 {
            return stream.shutdown().await;
        }
        let (written, lent) = stream.write_all(lent).await;
        written?;
        buf = lent;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
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
    let mut runtime = monoio::RuntimeBuilder::<monoio::FusionDriver>::new().build()?;
    runtime.block_on(async move {
        let port = Port::new(7).ok_or("0 is no port")?;
        let mut listener = service.listen(port)?;
        service.ready().await?;
        monoio::spawn(async move {
            while let Some(Ok(stream)) = listener.next().await {
                println!("{} calls", stream.remote_addr().key); // proven by the handshake
                monoio::spawn(echo(stream));
            }
        });

        caller.ready().await?;
        let mut stream = caller.dial(Addr { key: service.public_key(), port }).await?;
        let (written, _) = stream.write_all("hello").await;
        written?;
        let (read, answer) = stream.read_exact(vec![0; 5]).await;
        read?;
        println!("it answers {:?}, through {}", String::from_utf8(answer)?, stream.server());
        Ok(())
    })
}
