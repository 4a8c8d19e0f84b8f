//! A relay, a service and a caller in one process: `cargo run -p dmsg-engine --example echo`.

use std::{error::Error, sync::Arc};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
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

    let service = start()?;
    let port = Port::new(7).ok_or("0 is no port")?;
    let mut listener = service.listen(port)?;
    service.ready().await?;
    let echo = tokio::spawn(async move {
        let mut stream = listener.accept().await?;
        println!("{} calls", stream.remote_addr().key); // proven by the handshake
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });

    let caller = start()?;
    caller.ready().await?;
    let mut stream = caller.dial(Addr { key: service.public_key(), port }).await?;
    stream.write_all(b"hello").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("it answers {answer:?}, through {}", stream.server());
    echo.await?.map_err(|error| error.to_string())?;
    Ok(())
}
