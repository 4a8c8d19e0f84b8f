//! The path of a service's address stands before that of the request.

use dmsg_http::{
    access::{AccessConfig, Path},
    service::Endpoints,
};

use crate::scripted::{Act, World, key};

#[tokio::test(start_paused = true)]
async fn the_request_is_appended_to_it() {
    let endpoints = Endpoints {
        http: Some("http://services.example:81/tpd/".parse().unwrap()),
        dmsg: Some(format!("dmsg://{}:8080/tpd", key()).parse().unwrap()),
    };
    let world = World::with(endpoints, AccessConfig::default());
    world.dmsg.set(Act::BreakOff);
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(world.dmsg.seen(), [format!("GET dmsg://{}:8080/tpd/x?y=1", key())]);
    assert_eq!(world.http.seen(), ["GET http://services.example:81/tpd/x?y=1"]);
}
