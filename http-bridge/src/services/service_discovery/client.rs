//! The client of a Service Discovery (`services.md §5.2`).

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use http::Method;

use super::{Offer, OfferAddr};
use crate::{
    services::{
        CallOptions, Caller, Monitor, ServiceError,
        call::{LIST_BYTES_MAX, SMALL_BYTES_MAX, quoted, read, read_list, request},
        keys::KeyText,
        uptime_tracker::{SummaryQuery, Uptime},
    },
    transport::HttpTransport,
};

/// Which offers to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `vpn`, `skysocks`, `visor`.
    pub kind: String,
    /// Only this version.
    pub version: Option<String>,
    /// Only this country.
    pub country: Option<String>,
    /// A random sample of this size.
    pub quantity: Option<u32>,
}

impl Query {
    /// All offers of a type.
    #[must_use]
    pub fn of(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), ..Self::default() }
    }

    fn path(&self) -> String {
        let mut path = format!("/api/services?type={}", quoted(&self.kind));
        for (name, value) in [("version", &self.version), ("country", &self.country)] {
            if let Some(value) = value {
                let _ = write!(path, "&{name}={}", quoted(value));
            }
        }
        if let Some(quantity) = self.quantity {
            let _ = write!(path, "&quantity={quantity}");
        }
        path
    }
}

/// A client of one Service Discovery.
#[derive(Clone)]
pub struct ServiceDiscoveryClient(Caller);

impl ServiceDiscoveryClient {
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

    /// The offers that a query asks for. None is no error.
    pub async fn list(&self, query: &Query) -> Result<Vec<Offer>, ServiceError> {
        let path = query.path();
        let answer =
            self.0.call(request(Method::GET, &path, Bytes::new())?, LIST_BYTES_MAX).await?;
        read_list(&path, answer.body())
    }

    /// One offer. `None` if there is none; services of 2024 say that with a 500.
    pub async fn offer(
        &self,
        address: OfferAddr,
        kind: &str,
    ) -> Result<Option<Offer>, ServiceError> {
        let path = offer_path(address, kind);
        match self.0.get(&path, SMALL_BYTES_MAX).await {
            Ok(offer) => Ok(Some(offer)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(ServiceError::Unavailable { text, .. }) if text.contains("record not found") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Registers an offer of ours, or refreshes it; gives it as it was stored.
    pub async fn register(&self, offer: &Offer) -> Result<Offer, ServiceError> {
        let path = "/api/services";
        read(path, self.0.signed_send(Method::POST, path, offer, SMALL_BYTES_MAX).await?.body())
    }

    /// Withdraws an offer of ours; one that is not there is success.
    pub async fn delete(&self, address: OfferAddr, kind: &str) -> Result<(), ServiceError> {
        let request = request(Method::DELETE, &offer_path(address, kind), Bytes::new())?;
        match self.0.signed_call(request, SMALL_BYTES_MAX).await {
            Ok(_) | Err(ServiceError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Which visors are up, by their registrations (2026).
    pub async fn uptimes(&self, query: &SummaryQuery) -> Result<Vec<Uptime>, ServiceError> {
        query.ask(&self.0).await
    }

    /// Withdraws anybody's offers of a type, as a network monitor.
    pub async fn deregister(
        &self,
        monitor: &Monitor,
        kind: &str,
        keys: &[PublicKey],
    ) -> Result<(), ServiceError> {
        let keys: Vec<_> = keys.iter().copied().map(KeyText).collect();
        monitor
            .deregister(&self.0, &format!("/api/services/deregister/{}", quoted(kind)), &keys)
            .await
    }
}

fn offer_path(address: OfferAddr, kind: &str) -> String {
    format!("/api/services/{address}?type={}", quoted(kind))
}

impl ServiceError {
    /// Whether the Service Discovery says that it cannot reach us: then registering again does not help until our
    /// network changes. Go's services put the status text in front of the words, so the words are searched.
    #[must_use]
    pub fn is_visor_unreachable(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("visor is unreachable"))
    }
}
