//! The relay dies while a request is with the service.

use dmsg_http::{
    access::{Path, Readiness},
    overlay::{Overlay, OverlayConfig},
};
use http::Method;
use tokio::time::timeout;

use crate::world::{
    PATIENCE, Service, free_address, key, kill, path_of, ready, record, relay, send,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_finishes_over_http_and_a_post_is_not_sent_twice() {
    for method in [Method::GET, Method::POST] {
        let name = |what: &str| format!("vanish {what} {method}");
        let address = free_address().await;
        let servers = vec![record(&name("relay"), address)];
        let relay = relay(&name("relay"), address);
        let mut service = Service::start(&name("service"), servers.clone()).await;
        let config = OverlayConfig::direct(key(&name("caller")), servers);
        let overlay = Overlay::start(config).unwrap();
        ready(&overlay).await;
        ready(&service.overlay).await;
        let access = service.access(&overlay);

        let request = tokio::spawn({
            let (access, method) = (access.clone(), method.clone());
            async move { send(&access, method, "/hang").await }
        });
        let arrived = timeout(PATIENCE, service.hanging.recv()).await.unwrap();
        assert_eq!(arrived, Some(method.clone()), "it is with the service, over DMSG");
        kill(relay).await;
        let outcome = timeout(PATIENCE, request).await.unwrap().unwrap();
        if method == Method::GET {
            let answer = outcome.unwrap();
            assert_eq!((path_of(&answer), &answer.body()[..]), (Path::Http, &b"late"[..]));
        } else {
            let error = outcome.unwrap_err();
            assert!(error.may_be_delivered() && error.tries.len() == 1, "{error}");
        }
        // What follows goes over HTTP from the start.
        let mut readiness = overlay.readiness();
        timeout(PATIENCE, readiness.wait_for(|now| !Readiness::is_ready(now)))
            .await
            .unwrap()
            .unwrap();
        let answer = send(&access, Method::POST, "/hang").await.unwrap();
        assert_eq!(path_of(&answer), Path::Http);
        assert!(service.hanging.try_recv().is_err(), "nothing arrived twice");
    }
}
