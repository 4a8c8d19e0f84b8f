//! What may have been delivered is sent again only if that changes nothing.

use bytes::Bytes;
use dmsg_http::access::{Path, Repeatable};
use http::{Method, Request, StatusCode};

use crate::scripted::{Act, LIMITS, World};

#[tokio::test(start_paused = true)]
async fn a_post_that_may_have_arrived_is_not_sent_again() {
    for act in [Act::BreakOff, Act::Hang] {
        let world = World::new();
        world.dmsg.set(act);
        let error = world.call(Method::POST).await.unwrap_err();
        assert!(
            error.ends_with("(the request may have arrived, so it was not sent again)"),
            "{error}"
        );
        assert_eq!(world.counts(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_was_not_delivered_goes_on() {
    let world = World::new();
    world.dmsg.set(Act::RefuseConnection);
    assert_eq!(world.call(Method::POST).await, Ok(Path::Http));
    assert_eq!(world.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn idempotent_methods_go_on_whatever_happened() {
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
        for act in [Act::BreakOff, Act::Hang, Act::RefuseConnection] {
            let world = World::new();
            world.dmsg.set(act);
            assert_eq!(world.call(method.clone()).await, Ok(Path::Http));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_may_know_better_than_the_method() {
    for (method, may, counts) in [(Method::POST, true, (1, 1)), (Method::PUT, false, (1, 0))] {
        let world = World::new();
        world.dmsg.set(Act::BreakOff);
        let mut request = Request::builder().method(method).uri("/x").body(Bytes::new()).unwrap();
        request.extensions_mut().insert(Repeatable(may));
        assert_eq!(world.access.send(request, LIMITS).await.is_ok(), may);
        assert_eq!(world.counts(), counts);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_an_answer_whatever_it_says() {
    for status in [404, 429, 500, 502, 503] {
        let world = World::new();
        world.dmsg.set(Act::Answer(StatusCode::from_u16(status).unwrap()));
        assert_eq!(world.get().await, Ok(Path::Dmsg), "{status}");
    }
    let world = World::new();
    world.dmsg.set(Act::TooLong);
    assert!(world.get().await.is_err());
    assert_eq!(world.counts(), (1, 0), "it is as long over HTTP");
}
