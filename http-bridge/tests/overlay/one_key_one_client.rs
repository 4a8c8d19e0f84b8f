//! Servers keep one session per key, so one process runs one client per key.

use dmsg_engine::client::StartError;
use dmsg_http::overlay::{Overlay, OverlayConfig};

use crate::world::{free_address, key, record};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_is_refused_and_the_key_comes_back() {
    let servers = vec![record("any relay", free_address().await)];
    let direct = || OverlayConfig::direct(key("one key"), servers.clone());
    let first = Overlay::start(direct()).unwrap();
    let second = OverlayConfig::standard(key("one key"), "http://127.0.0.1:9".parse().unwrap());
    let error = Overlay::start(second).err().unwrap();
    assert!(matches!(error, StartError::KeyInUse(_)), "{error}");
    first.close().await;
    Overlay::start(direct()).unwrap().close().await;
}
