//! Which path a request took shows in its answer, in the status and in the metrics.

use dmsg_http::access::{Path, PathFailure, Readiness};
use http::Method;

use crate::scripted::{Act, World, ready};

#[tokio::test(start_paused = true)]
async fn in_the_answer_the_status_and_the_metrics() {
    let world = World::new();
    world.readiness.send_replace(Readiness::Starting);
    let taken = world.taken(Method::GET).await.unwrap();
    assert_eq!(taken.path, Path::Http);
    assert!(matches!(taken.passed_over[..], [(Path::Dmsg, PathFailure::NotReady(_))]));
    world.readiness.send_replace(ready());
    let taken = world.taken(Method::GET).await.unwrap();
    assert_eq!((taken.path, taken.passed_over.len(), taken.hedged), (Path::Dmsg, 0, false));
    world.dmsg.set(Act::BreakOff);
    world.taken(Method::GET).await.unwrap();

    let status = world.access.status();
    assert_eq!(status.in_use, Some(Path::Http));
    let [dmsg, http] = &status.paths[..] else { panic!("two paths: {status:?}") };
    assert_eq!((dmsg.path, dmsg.answered, dmsg.failed), (Path::Dmsg, 1, 1));
    assert!(dmsg.last_error.as_ref().unwrap().0.contains("broke off"));
    assert!(dmsg.first_answer.is_some() && dmsg.latency.is_some());
    assert_eq!((http.path, http.answered, http.failed), (Path::Http, 2, 0));

    let text = world.metrics.text();
    let on = |path: &str, rest: &str| {
        format!("{{service=\"transport-discovery\",path=\"{path}\",{rest}}}")
    };
    for line in [
        format!("dmsg_access_requests_total{} 1", on("dmsg", "outcome=\"answered\"")),
        format!("dmsg_access_requests_total{} 1", on("dmsg", "outcome=\"failed\"")),
        format!("dmsg_access_requests_total{} 2", on("http", "outcome=\"answered\"")),
        format!("dmsg_access_fallbacks_total{} 1", on("dmsg", "cause=\"not_ready\"")),
        format!("dmsg_access_fallbacks_total{} 1", on("dmsg", "cause=\"exchange\"")),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn as_a_tower_service_with_limits_of_its_own() {
    use tower::ServiceExt;
    let world = World::new();
    world.dmsg.set(Act::Hang);
    world.http.set(Act::Hang);
    let begun = tokio::time::Instant::now();
    let mut request = http::Request::builder().uri("/x").body(bytes::Bytes::new()).unwrap();
    request.extensions_mut().insert(crate::scripted::LIMITS);
    let error = world.access.clone().oneshot(request).await.unwrap_err();
    assert_eq!((error.tries.len(), begun.elapsed()), (2, crate::scripted::LIMITS.timeout));
}
