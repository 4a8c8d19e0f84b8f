//! `/uptimes` as the services of 2026 have it, which took the Uptime Tracker's place: DMSG, Transport and Service Discovery
//! (`services.md §8`, `discovery.md §4`). Summaries instead of short forms, and keys separated by semicolons.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use dmsg_engine::identity::PublicKey;
use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    Ledger, Uptime,
    ledger::{Wanted, months, seconds},
};
use crate::{
    discovery::{Clock, UnixNanos},
    services::{
        Caller, ServiceError,
        call::{self, LIST_BYTES_MAX},
        host::{self, ApiError, SharedText, query, receive},
        keys::KeyText,
    },
};

/// Keys in the path of a GET; more go into the body of a POST. 64 of 67 bytes stay below the 8 KiB that servers take.
pub const SUMMARY_KEYS_MAX: usize = 64;

/// Which summaries to ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SummaryQuery {
    /// Only these visors; all if empty.
    pub visors: Vec<PublicKey>,
    /// With each day's percentage.
    pub daily: bool,
}

/// The body of a POST.
#[derive(Serialize, Deserialize)]
struct Bulk {
    #[serde(default)]
    pks: Option<Vec<KeyText>>,
    #[serde(default)]
    v: String,
}

impl SummaryQuery {
    fn version(&self) -> &'static str {
        if self.daily { "v2" } else { "" }
    }

    fn path(&self) -> String {
        let mut pairs = Vec::new();
        if self.daily {
            pairs.push("v=v2".to_owned());
        }
        if !self.visors.is_empty() {
            let keys: Vec<_> = self.visors.iter().map(ToString::to_string).collect();
            pairs.push(format!("visors={}", call::quoted(&keys.join(";"))));
        }
        let question = if pairs.is_empty() { "" } else { "?" };
        format!("/uptimes{question}{}", pairs.join("&"))
    }

    /// Asks a service of 2026 or later.
    pub async fn ask(&self, caller: &Caller) -> Result<Vec<Uptime>, ServiceError> {
        let request = if self.visors.len() <= SUMMARY_KEYS_MAX {
            call::request(Method::GET, &self.path(), Bytes::new())?
        } else {
            let pks = self.visors.iter().copied().map(KeyText).collect();
            let bulk = Bulk { pks: Some(pks), v: self.version().to_owned() };
            call::request(Method::POST, "/uptimes", call::json("/uptimes", &bulk)?)?
        };
        let answer = caller.call(request, LIST_BYTES_MAX).await?;
        call::read_list("/uptimes", answer.body())
    }
}

#[derive(Clone)]
struct Shown {
    ledger: Arc<Ledger>,
    clock: Clock,
    /// All visors, in short and with their days.
    lists: [SharedText; 2],
}

/// GET and POST `/uptimes` of these heartbeats.
pub fn summaries(ledger: Arc<Ledger>, clock: Clock) -> Router {
    Router::new().route("/uptimes", get(some).post(many)).with_state(Shown {
        ledger,
        clock,
        lists: Default::default(),
    })
}

async fn some(State(shown): State<Shown>, request: Request) -> Response {
    let query = query(&request);
    let named = query.get("visors").filter(|list| !list.is_empty());
    let keys =
        named.map(|list| list.split([';', ',']).filter_map(|key| key.parse().ok()).collect());
    shown.answer(Wanted { keys, online: None }, query.get("v").map_or("", String::as_str)).await
}

async fn many(State(shown): State<Shown>, body: Body) -> Response {
    let work = async {
        let body = receive(body, host::LIST_BYTES_MAX).await?;
        let bulk: Bulk =
            serde_json::from_slice(&body).map_err(|_| ApiError::bad("invalid JSON body"))?;
        let keys = bulk.pks.filter(|keys| !keys.is_empty());
        let keys = keys.map(|keys| keys.into_iter().map(|key| key.0).collect());
        Ok::<_, ApiError>(shown.answer(Wanted { keys, online: None }, &bulk.v).await)
    };
    work.await.unwrap_or_else(ApiError::into_response)
}

impl Shown {
    /// What `v3` would show beyond `v2` is not known here. The list of all is made once for all who ask.
    async fn answer(&self, wanted: Wanted, version: &str) -> Response {
        let now: UnixNanos = (self.clock)();
        let is_daily = matches!(version, "v2" | "v3");
        // No day at all for the short form.
        let days = match is_daily {
            true => months(seconds(now), seconds(now)),
            false => (u64::MAX, u64::MAX),
        };
        let (ledger, is_whole) = (Arc::clone(&self.ledger), wanted.keys.is_none());
        let make = move || {
            let found = ledger.find(&wanted, now);
            let found: Vec<_> =
                found.iter().map(|(on, visor)| visor.long(*on, days, now)).collect();
            serde_json::to_vec(&found).unwrap_or_default()
        };
        let text = if is_whole {
            self.lists[usize::from(is_daily)].text(self.ledger.version(), now, make).await
        } else {
            tokio::task::spawn_blocking(make).await.unwrap_or_default().into()
        };
        host::json_text(text)
    }
}
