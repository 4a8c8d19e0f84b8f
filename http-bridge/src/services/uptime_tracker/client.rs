//! The client of an Uptime Tracker (`services.md §8`).

use std::sync::Arc;

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use http::Method;

use super::{Online, Place, Uptime};
use crate::{
    services::{
        CallOptions, Caller, ServiceError,
        call::{LIST_BYTES_MAX, SMALL_BYTES_MAX, quoted, read_list, request},
    },
    transport::HttpTransport,
};

/// Which visors to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UptimeQuery {
    /// Only these; all if empty.
    pub visors: Vec<PublicKey>,
    /// From and to, Unix seconds; widened to whole months.
    pub dates: Option<(i64, i64)>,
    /// Only those that are up, or down.
    pub online: Option<bool>,
}

impl UptimeQuery {
    /// `separator`: a comma for Uptime Trackers, a semicolon for what took their place in 2026.
    fn path(&self, long: bool, separator: &str) -> String {
        let mut pairs = Vec::new();
        if !self.visors.is_empty() {
            let keys: Vec<_> = self.visors.iter().map(ToString::to_string).collect();
            pairs.push(format!("visors={}", quoted(&keys.join(separator))));
        }
        if let Some((from, to)) = self.dates {
            pairs.push(format!("startDate={from}&endDate={to}"));
        }
        if let Some(online) = self.online {
            pairs.push(format!("status={}", if online { "on" } else { "off" }));
        }
        if long {
            pairs.push("v=v2".to_owned());
        }
        let question = if pairs.is_empty() { "" } else { "?" };
        format!("/uptimes{question}{}", pairs.join("&"))
    }
}

/// A client of one Uptime Tracker.
#[derive(Clone)]
pub struct UptimeTrackerClient(Caller);

impl UptimeTrackerClient {
    /// The client of the visor with this key; `transport` is bound to the service.
    #[must_use]
    pub fn new(transport: Arc<dyn HttpTransport>, secret: SecretKey, options: CallOptions) -> Self {
        Self(Caller::signing(transport, secret, options))
    }

    /// What every service has: health, and our claimed address.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0
    }

    /// Tells that we are up.
    pub async fn heartbeat(&self, version: &str) -> Result<(), ServiceError> {
        heartbeat(&self.0, version).await
    }

    /// Visors in the short form.
    pub async fn online(&self, query: &UptimeQuery) -> Result<Vec<Online>, ServiceError> {
        self.list(&query.path(false, ",")).await
    }

    /// Visors in the long form.
    pub async fn uptimes(&self, query: &UptimeQuery) -> Result<Vec<Uptime>, ServiceError> {
        self.list(&query.path(true, ",")).await
    }

    /// One visor. `None` if it never told anything; the service says that with a 500.
    pub async fn visor(&self, key: PublicKey) -> Result<Option<Online>, ServiceError> {
        match self.0.get(&format!("/uptime/{key}"), SMALL_BYTES_MAX).await {
            Ok(visor) => Ok(Some(visor)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(ServiceError::Unavailable { text, .. }) if text.contains("no entries for pk") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the visors are.
    pub async fn places(&self) -> Result<Vec<Place>, ServiceError> {
        self.list("/visors").await
    }

    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Vec<T>, ServiceError> {
        let answer = self.0.call(request(Method::GET, path, Bytes::new())?, LIST_BYTES_MAX).await?;
        read_list(path, answer.body())
    }
}

/// `GET /v4/update`, of an Uptime Tracker or, since 2026, a Transport Discovery.
pub(in crate::services) async fn heartbeat(
    caller: &Caller,
    version: &str,
) -> Result<(), ServiceError> {
    let path = format!("/v4/update?version={}", quoted(version));
    caller.signed_call(request(Method::GET, &path, Bytes::new())?, SMALL_BYTES_MAX).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_as_the_service_reads_it() {
        assert_eq!(UptimeQuery::default().path(false, ","), "/uptimes");
        let key = SecretKey::from_seed(b"v").public_key();
        let query = UptimeQuery { visors: vec![key; 2], dates: Some((1, 2)), online: Some(true) };
        let expected =
            format!("/uptimes?visors={key}%2C{key}&startDate=1&endDate=2&status=on&v=v2");
        assert_eq!(query.path(true, ","), expected);
    }
}
