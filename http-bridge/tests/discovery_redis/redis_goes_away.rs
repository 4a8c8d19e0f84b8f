use dmsg_http::discovery::store::{RedisStore, StoreError, StoreLimits};
use http::{StatusCode, header::RETRY_AFTER};

use crate::{
    discovery_common::Discovery,
    redis::{Redis, program},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_get_a_503_and_all_is_there_when_it_is_back() {
    let Some(mut redis) = Redis::start().await else { return };
    let discovery = Discovery::start_with(redis.store().await, |_| ()).await;
    let text = discovery.put(discovery.client_entry("client", &[]), "client").await;

    redis.down();
    let path = format!("/dmsg-discovery/entry/{}", crate::discovery_common::key("client"));
    let answer = discovery.get(&path).await;
    answer.is(503, "the discovery's store does not answer, try again");
    assert_eq!(answer.headers[RETRY_AFTER], "1");
    let mut entry = discovery.client_entry("client", &[]);
    entry.sequence = 1;
    let newer = crate::discovery_common::signed(entry, "client");
    assert_eq!(discovery.post(newer.clone()).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(discovery.get("/health").await.status, StatusCode::OK, "it says what it knows");

    redis.up().await;
    let back = loop {
        // Ends with the test's own limit if it never comes back.
        match discovery.stored("client").await {
            Some(entry) => break entry,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(back.text(), text);
    assert_eq!(discovery.post(newer).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redis_at_the_start_is_an_error_that_names_no_password() {
    if program().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis+unix://{}/none?pass=secret", folder.path().display());
    let Err(error) = RedisStore::connect(&[url], StoreLimits::default()).await else {
        panic!("nobody is there")
    };
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(!error.to_string().contains("secret"), "{error}");
}
