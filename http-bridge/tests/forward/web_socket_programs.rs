//! A web socket library's own client and server, with `dmsg proxy` and `dmsg serve --to` between them.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use dmsg_http::{
    forward::ForwardConfig,
    http::{
        HttpConfig,
        server::{ServeConfig, serve},
    },
    proxy::{Proxy, Target},
};
use tokio::net::TcpListener;

use crate::world::{World, host, run, words};

const SERVER: &str = "
import asyncio, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
";

const CLIENT: &str = "
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], proxy=sys.argv[2]) as socket:
        for message in ['text', bytes(range(256)) * 2000, 'last']:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    print('closed', socket.close_code)
asyncio.run(main())
";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The library's echo server, and where it listens.
fn start() -> Option<(Killed, SocketAddr)> {
    let mut python = Command::new("python3")
        .args(["-c", SERVER])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(python.stdout.take()?).read_line(&mut line).ok()?;
    let python = Killed(python);
    Some((python, SocketAddr::from(([127, 0, 0, 1], line.trim().parse().ok()?))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_websockets_through_both() {
    let Some((_python, service)) = start() else {
        println!("skipped: python3 has no websockets (pip install websockets)");
        return;
    };
    let proxy = Proxy::new(Target::parse(&format!("http://{service}"), false).unwrap());
    let answer = tower::service_fn(move |request| {
        let proxy = proxy.clone();
        async move { Ok::<_, std::convert::Infallible>(proxy.respond(request).await) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let config = ServeConfig::default();
    let serving = serve(listener, answer, config, Default::default(), std::future::pending());
    let serving = tokio::spawn(serving);
    let world =
        World::limited(origin, serving, ForwardConfig::default(), HttpConfig::default()).await;
    let (url, proxy) = (format!("ws://{}/", host()), format!("http://{}", world.proxy));
    let Some(output) = run("python3", words(&["-c", CLIENT, &url, &proxy])).await else { return };
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if error.contains("unexpected keyword argument 'proxy'") {
        println!("skipped: python3's websockets knows no proxies, it is older than 15");
        return;
    }
    assert_eq!(said.trim(), "closed 1000", "{error}");
}
