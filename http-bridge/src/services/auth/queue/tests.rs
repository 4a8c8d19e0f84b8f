//! Nonces against a service that counts, forgets, lies and hangs; in paused time.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::*;
use crate::{
    discovery::UnixNanos,
    services::{
        CallOptions,
        auth::{Guard, GuardConfig},
    },
    transport::{ExchangeFuture, HttpTransport, Limits, TransportError},
};

const START: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

/// What the service does with a request that passed.
type Handler = Box<dyn Fn(usize) -> Reply + Send + Sync>;

#[derive(Clone, Copy)]
enum Reply {
    Status(u16),
    /// The request counts, but no answer comes.
    Silence,
}

struct Service {
    guard: Mutex<Arc<Guard>>,
    handler: Handler,
    counts: Mutex<Counts>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    fetches: usize,
    refused: usize,
    handled: usize,
}

impl Service {
    fn new(
        config: GuardConfig,
        handler: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Arc<Self> {
        let guard = Mutex::new(Arc::new(Guard::new(config, START)));
        Arc::new(Self { guard, handler: Box::new(handler), counts: Mutex::default() })
    }

    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    fn restart(&self, seconds: i64) {
        let later = UnixNanos(START.0 + seconds * 1_000_000_000);
        *self.guard.lock().unwrap() = Arc::new(Guard::new(GuardConfig::default(), later));
    }

    /// The answer, or `None` for silence.
    fn answer(&self, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        let guard = Arc::clone(&self.guard.lock().unwrap());
        let mut counts = self.counts.lock().unwrap();
        let reply = |status: u16, body: String| {
            Some(Response::builder().status(status).body(body.into()).unwrap())
        };
        if let Some(key) = request.uri().path().strip_prefix("/security/nonces/") {
            counts.fetches += 1;
            let next = guard.next_nonce(&key.parse().unwrap());
            return reply(200, format!("{{\"edge\":\"{key}\",\"next_nonce\":{next}}}"));
        }
        match guard.admit(request.headers(), request.body(), None, None) {
            Err(text) => {
                counts.refused += 1;
                reply(401, format!("{{\"error\":{{\"message\":\"{text}\",\"code\":401}}}}"))
            }
            Ok(who) => {
                counts.handled += 1;
                match (self.handler)(counts.handled) {
                    Reply::Status(status) => {
                        guard.answered(&who, StatusCode::from_u16(status).unwrap());
                        let mut answer = reply(status, "{}".into())?;
                        if status == 503 {
                            answer.headers_mut().insert("retry-after", "1".parse().unwrap());
                        }
                        Some(answer)
                    }
                    Reply::Silence => None,
                }
            }
        }
    }
}

struct Wire(Arc<Service>);

impl HttpTransport for Wire {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let answer = self.0.answer(&request);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if answer.is_none() {
                tokio::time::sleep(limits.timeout).await;
            }
            answer.ok_or(TransportError::Timeout(limits.timeout))
        })
    }
}

fn caller(service: &Arc<Service>) -> Caller {
    let secret = SecretKey::from_seed(b"nonces");
    Caller::signing(Arc::new(Wire(Arc::clone(service))), secret, CallOptions::default())
}

async fn post(caller: &Caller) -> Result<u16, ServiceError> {
    let request = request(Method::POST, "/x", Bytes::from_static(b"{}")).unwrap();
    caller.signed_call(request, 1000).await.map(|answer| answer.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_calls_at_once_burn_no_nonce() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Status(200));
    let caller = caller(&service);
    let results = join_all((0..100).map(|_| post(&caller))).await;
    assert!(results.iter().all(|result| *result == Ok(200)), "{results:?}");
    assert_eq!(service.counts(), Counts { fetches: 1, refused: 0, handled: 100 });
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_one_key_get_through_by_fetching_again() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Status(200));
    let (one, two) = (caller(&service), caller(&service));
    for _ in 0..20 {
        let (a, b) = tokio::join!(post(&one), post(&two));
        assert_eq!((a, b), (Ok(200), Ok(200)));
    }
    assert_eq!(service.counts().handled, 40);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_service_costs_one_refusal() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Status(200));
    let caller = caller(&service);
    assert_eq!(post(&caller).await, Ok(200));
    service.restart(60);
    assert_eq!(post(&caller).await, Ok(200));
    assert_eq!(post(&caller).await, Ok(200));
    assert_eq!(service.counts(), Counts { fetches: 2, refused: 1, handled: 3 });
}

#[tokio::test(start_paused = true)]
async fn services_that_count_other_answers_too_are_found_out() {
    // Ours counts a 201: the second call is refused once, then the queue knows.
    let ours = Service::new(GuardConfig::default(), |_| Reply::Status(201));
    let client = caller(&ours);
    for _ in 0..5 {
        assert_eq!(post(&client).await, Ok(201));
    }
    assert_eq!(ours.counts(), Counts { fetches: 2, refused: 1, handled: 5 });
    // Go's does not: nothing is ever refused.
    let config = GuardConfig { counts_only_200: true, ..GuardConfig::default() };
    let go = Service::new(config, |n| Reply::Status(if n % 2 == 0 { 200 } else { 201 }));
    let client = caller(&go);
    for n in 1..6 {
        assert_eq!(post(&client).await, Ok(if n % 2 == 0 { 200 } else { 201 }));
    }
    assert_eq!(go.counts(), Counts { fetches: 1, refused: 0, handled: 5 });
}

#[tokio::test(start_paused = true)]
async fn a_503_that_used_the_number_up_is_waited_out_with_the_next_one() {
    let service =
        Service::new(GuardConfig::default(), |n| Reply::Status(if n == 2 { 503 } else { 201 }));
    let caller = caller(&service);
    assert_eq!(post(&caller).await, Ok(201));
    let start = tokio::time::Instant::now();
    assert_eq!(post(&caller).await, Ok(201));
    assert!(start.elapsed() >= Duration::from_secs(1));
    // A service that stays busy is believed after one wait.
    let busy = Service::new(GuardConfig::default(), |_| Reply::Status(503));
    let refused = post(&self::caller(&busy)).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable { .. })), "{refused:?}");
    assert_eq!(busy.counts().handled, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_number_unknown_and_the_next_call_fetches_it() {
    let service = Service::new(GuardConfig::default(), |n| {
        if n == 2 { Reply::Silence } else { Reply::Status(200) }
    });
    let caller = caller(&service);
    assert_eq!(post(&caller).await, Ok(200));
    assert!(matches!(
        post(&caller).await,
        Err(ServiceError::Transport(TransportError::Timeout(_)))
    ));
    assert_eq!(post(&caller).await, Ok(200));
    assert_eq!(service.counts(), Counts { fetches: 2, refused: 0, handled: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_neither_blocks_nor_confuses_the_next() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Status(200));
    let caller = caller(&service);
    for millis in 0..60 {
        let call = post(&caller);
        let _ = tokio::time::timeout(Duration::from_millis(millis), call).await;
        assert_eq!(post(&caller).await, Ok(200), "dropped after {millis} ms");
    }
    assert_eq!(service.counts().refused, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_call_holds_others_up_no_longer_than_their_deadline() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Silence);
    let caller = caller(&service);
    let start = tokio::time::Instant::now();
    let results = join_all((0..10).map(|_| post(&caller))).await;
    assert!(results.iter().all(Result::is_err));
    assert!(start.elapsed() <= CallOptions::default().call_timeout, "{:?}", start.elapsed());
    assert!(results.contains(&Err(ServiceError::Deadline(CallOptions::default().call_timeout))));
}

#[tokio::test(start_paused = true)]
async fn the_row_is_bounded() {
    let service = Service::new(GuardConfig::default(), |_| Reply::Status(200));
    let options = CallOptions { queue_max: 4, ..CallOptions::default() };
    let secret = SecretKey::from_seed(b"nonces");
    let caller = Caller::signing(Arc::new(Wire(Arc::clone(&service))), secret, options);
    let results = join_all((0..20).map(|_| post(&caller))).await;
    let busy = results.iter().filter(|result| **result == Err(ServiceError::Busy(4))).count();
    // One has its turn, four wait.
    assert_eq!((busy, results.len() - busy), (15, 5));
    assert_eq!(post(&caller).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_about_the_number_is_final_at_once() {
    struct Always;
    impl HttpTransport for Always {
        fn exchange(&self, request: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
            let path = request.uri().path().to_owned();
            Box::pin(async move {
                let answer = match path.strip_prefix("/security/nonces/") {
                    Some(key) => (200, format!("{{\"edge\":\"{key}\",\"next_nonce\":7}}")),
                    None => (401, r#"{"error":{"message":"Recovered pubkey","code":401}}"#.into()),
                };
                Ok(Response::builder().status(answer.0).body(answer.1.into()).unwrap())
            })
        }
    }
    let caller =
        Caller::signing(Arc::new(Always), SecretKey::from_seed(b"n"), CallOptions::default());
    let start = tokio::time::Instant::now();
    assert_eq!(post(&caller).await, Err(ServiceError::Unauthorised("Recovered pubkey".into())));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_agrees_is_left_after_two_tries_more() {
    struct Liar(AtomicUsize);
    impl HttpTransport for Liar {
        fn exchange(&self, request: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
            let count = self.0.fetch_add(1, Ordering::Relaxed);
            let path = request.uri().path().to_owned();
            Box::pin(async move {
                let answer = match path.strip_prefix("/security/nonces/") {
                    Some(key) => (200, format!("{{\"edge\":\"{key}\",\"next_nonce\":{count}}}")),
                    None => (
                        401,
                        r#"{"error":{"message":"SW-Nonce does not match","code":401}}"#.into(),
                    ),
                };
                Ok(Response::builder().status(answer.0).body(answer.1.into()).unwrap())
            })
        }
    }
    let liar = Arc::new(Liar(AtomicUsize::new(0)));
    let wire: Arc<dyn HttpTransport> = liar.clone();
    let caller = Caller::signing(wire, SecretKey::from_seed(b"n"), CallOptions::default());
    assert!(matches!(post(&caller).await, Err(ServiceError::Unauthorised(_))));
    // Three requests, each behind or before a fetch.
    assert_eq!(liar.0.load(Ordering::Relaxed), 1 + 3 + 3);
}

#[tokio::test(start_paused = true)]
async fn a_number_for_another_key_or_no_number_is_an_error_and_no_panic() {
    for body in [
        "",
        "null",
        "{}",
        "[]",
        "{\"edge\":\"x\",\"next_nonce\":1}",
        "{\"edge\":\"025a4f15656f2e8da5de6d6cddf2526262a0c06cdf58ece8996d1cef7b999a5a88\",\"next_nonce\":1}",
        "{\"edge\":\"\",\"next_nonce\":-1}",
        "{\"edge\":\"\",\"next_nonce\":18446744073709551616}",
    ] {
        struct Odd(&'static str);
        impl HttpTransport for Odd {
            fn exchange(&self, _: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
                let answer = Response::new(Bytes::from_static(self.0.as_bytes()));
                Box::pin(async move { Ok(answer) })
            }
        }
        let caller = Caller::signing(
            Arc::new(Odd(body)),
            SecretKey::from_seed(b"n"),
            CallOptions::default(),
        );
        let result = post(&caller).await;
        assert!(matches!(result, Err(ServiceError::Malformed { .. })), "{body}: {result:?}");
    }
}
