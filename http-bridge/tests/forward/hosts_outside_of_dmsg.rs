use axum::{Router, routing::get};
use dmsg_http::forward::{ForwardConfig, clearnet::Clearnet};

use crate::world::World;

async fn world(clearnet: Clearnet) -> World {
    let config = ForwardConfig { clearnet, ..ForwardConfig::default() };
    World::web_with(Router::new(), config).await
}

/// A web server outside of DMSG, on this machine.
async fn outside() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().route("/", get(async || "outside"));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

fn get_from(host: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn public_ones_only_unless_any_is_allowed() {
    let port = outside().await;
    let (public, any) = (world(Clearnet::Public).await, world(Clearnet::Any).await);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
        let host = format!("{host}:{port}");
        let answer = public.exchange(get_from(&host)).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("--allow-private"),
            "{host}: {answer}"
        );
        let refused = public.tunnel(&host).await.unwrap_err();
        assert!(refused.contains("403"), "{host}: {refused}");
    }
    let answer = any.exchange(get_from(&format!("127.0.0.1:{port}"))).await;
    assert!(answer.ends_with("outside"), "{answer}");
    assert!(any.tunnel(&format!("localhost:{port}")).await.is_ok());
}

#[tokio::test]
async fn one_that_is_not_there_is_a_502() {
    let any = world(Clearnet::Any).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let answer = any.exchange(get_from(&host)).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
