//! Requests that no honest client sends: each refused, nothing stored, the service goes on.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::{support::*, transport_discovery};

#[tokio::test]
async fn nonces_that_are_stale_reused_or_huge() {
    let (_, running, _) = transport_discovery::start().await;
    let path = format!("/transports/edge:{}", key("a"));
    let next = running.nonce(key("a")).await;
    let get = async |nonce: u64| {
        running.send(Method::GET, &path, &signed(&secret("a"), b"", nonce), Bytes::new()).await
    };
    for wrong in [0, next - 1, next + 1, u64::MAX - 1, u64::MAX] {
        is_nested_error(&get(wrong).await, 401, "SW-Nonce does not match");
    }
    assert_eq!(get(next).await.status(), StatusCode::OK);
    is_nested_error(&get(next).await, 401, "SW-Nonce does not match");
    for text in ["-1", "1.0", "0x1", "18446744073709551616", "٣", " "] {
        let mut headers = signed(&secret("a"), b"", next + 1);
        headers[1].1 = text.into();
        let answer = running.send(Method::GET, &path, &headers, Bytes::new()).await;
        is_nested_error(&answer, 401, "SW-Nonce");
    }
    assert_eq!(running.nonce(key("a")).await, next + 1);
}

#[tokio::test]
async fn forty_requests_at_once_with_one_nonce_pass_once() {
    let (_, running, _) = transport_discovery::start().await;
    let path = format!("/transports/edge:{}", key("a"));
    let headers = signed(&secret("a"), b"", running.nonce(key("a")).await);
    let sends =
        (0..40).map(|_| running.send(Method::GET, &path, &headers, Bytes::new())).map(Box::pin);
    let answers = futures_util::future::join_all(sends).await;
    let passed = answers.iter().filter(|answer| answer.status() == StatusCode::OK).count();
    assert_eq!(passed, 1);
}

#[tokio::test]
async fn tampered_signatures_and_bodies() {
    let (_, running, _) = transport_discovery::start().await;
    let link = transport_discovery::transport("a", "b", "stcpr");
    let body = serde_json::to_vec(&[&link]).unwrap();
    let next = running.nonce(key("a")).await;
    let good = signed(&secret("a"), &body, next);
    let post = async |headers: &[(&'static str, String)], body: Vec<u8>| {
        running.send(Method::POST, "/transports/", headers, body).await
    };
    let mut longer = body.clone();
    longer.push(b'\n');
    assert_eq!(post(&good, longer).await.status(), StatusCode::UNAUTHORIZED);
    for at in [0, 64, 128, 129] {
        let mut bad = good.clone();
        let flipped = if bad[2].1.as_bytes()[at] == b'0' { "1" } else { "0" };
        bad[2].1.replace_range(at..=at, flipped);
        assert_eq!(post(&bad, body.clone()).await.status(), StatusCode::UNAUTHORIZED, "{at}");
    }
    for (index, texts) in [(0, ["", "00", "zz"]), (2, ["", "00", "zz"])] {
        for text in texts {
            let mut bad = good.clone();
            bad[index].1 = text.into();
            assert_eq!(post(&bad, body.clone()).await.status(), StatusCode::UNAUTHORIZED);
        }
    }
    // Signed by one key, in the name of another.
    let mut other = good.clone();
    other[0].1 = key("b").to_string();
    assert_eq!(post(&other, body.clone()).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(running.nonce(key("a")).await, next, "none of that used the number up");
    assert_eq!(post(&good, body).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn bodies_over_their_limits_and_lists_over_theirs() {
    let (_, running, _) = transport_discovery::start().await;
    let huge = vec![b' '; (1 << 20) + 1];
    let headers = signed(&secret("a"), &huge, running.nonce(key("a")).await);
    let answer = running.send(Method::POST, "/transports/", &headers, huge).await;
    is_flat_error(&answer, 413, "longer than");
    let link = transport_discovery::transport("a", "b", "stcpr");
    let many = serde_json::to_vec(&vec![&link; 257]).unwrap();
    let headers = signed(&secret("a"), &many, running.nonce(key("a")).await);
    let answer = running.send(Method::POST, "/transports/", &headers, many).await;
    is_flat_error(&answer, 400, "more than 256");
    // A GET has no body.
    let path = format!("/transports/edge:{}", key("a"));
    let headers = signed(&secret("a"), b"x", running.nonce(key("a")).await);
    let answer = running.send(Method::GET, &path, &headers, "x").await;
    is_flat_error(&answer, 413, "longer than 0");
}

#[tokio::test]
async fn json_of_every_wrong_kind() {
    let (_, running, _) = transport_discovery::start().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let link = transport_discovery::transport("a", "b", "stcpr");
    let text = serde_json::to_string(&[&link]).unwrap();
    let off_curve = text.replace(
        &key("a").to_string(),
        "0238c0f000000000000000000000000000000000000000000000000000000000e0",
    );
    for body in [
        "",
        "{}",
        "nul",
        "[1]",
        "[{}]",
        "[[]]",
        "[null]",
        "\"x\"",
        "\u{0}",
        &deep,
        &text.replace("signatures", "signature"),
        &text.replace("t_id", "id"),
        &off_curve,
        &text.replace("stcpr", ""),
        &text[..text.len() - 1],
    ] {
        let headers = signed(&secret("a"), body.as_bytes(), running.nonce(key("a")).await);
        let answer = running.send(Method::POST, "/transports/", &headers, body.to_owned()).await;
        let shown: String = body.chars().take(60).collect();
        assert!(answer.status().is_client_error(), "{shown}: {answer:?}");
    }
    assert_eq!(transport_discovery::client(&running, "a").all().await.unwrap(), []);
}

#[tokio::test]
async fn keys_of_every_wrong_kind_at_the_nonce_endpoint() {
    let (_, running, _) = transport_discovery::start().await;
    let zeros = "0".repeat(66);
    let long = "a".repeat(5000);
    for key in ["x", "00", &zeros, &long, "%00", "..%2f"] {
        let path = format!("/security/nonces/{key}");
        let answer = running.send(Method::GET, &path, &[], Bytes::new()).await;
        is_nested_error(&answer, 400, "Invalid public key");
    }
}
