//! The client of a Transport Discovery (`services.md §4.2`).

use std::sync::Arc;

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use http::Method;

use super::{SignedTransport, Transport, TransportId};
use crate::{
    services::{
        CallOptions, Caller, Monitor, ServiceError,
        call::{LIST_BYTES_MAX, SMALL_BYTES_MAX, json, read_list, request},
        keys::KeyText,
        uptime_tracker::{SummaryQuery, Uptime},
    },
    transport::HttpTransport,
};

/// A client of one Transport Discovery.
#[derive(Clone)]
pub struct TransportDiscoveryClient(Caller);

impl TransportDiscoveryClient {
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

    /// Registers transports, one of whose edges we are; gives them as they were stored.
    pub async fn register(
        &self,
        transports: &[SignedTransport],
    ) -> Result<Vec<SignedTransport>, ServiceError> {
        // The slash at the end is part of the path.
        let path = "/transports/";
        let answer = self.0.signed_send(Method::POST, path, transports, LIST_BYTES_MAX).await?;
        read_list(path, answer.body())
    }

    /// Registers transports without signatures; only services of 2026 and later know the call.
    pub async fn register_unsigned(&self, transports: &[Transport]) -> Result<(), ServiceError> {
        self.0
            .signed_send(Method::POST, "/v3/transports/", transports, LIST_BYTES_MAX)
            .await
            .map(drop)
    }

    /// The transports of a visor, asked for as visors of 2026 do.
    pub async fn transports_of_v3(&self, edge: PublicKey) -> Result<Vec<Transport>, ServiceError> {
        self.list_of(edge, &format!("/v3/transports/edge:{edge}")).await
    }

    /// The transport with this id.
    pub async fn transport(&self, id: TransportId) -> Result<Transport, ServiceError> {
        let path = format!("/transports/id:{id}");
        let found: Transport = self.0.signed_get(&path, SMALL_BYTES_MAX).await?;
        if found.id == id {
            Ok(found)
        } else {
            Err(ServiceError::malformed(&path, "it is another transport"))
        }
    }

    /// The transports of a visor; none is no error, in whichever way the service says it.
    pub async fn transports_of(&self, edge: PublicKey) -> Result<Vec<Transport>, ServiceError> {
        self.list_of(edge, &format!("/transports/edge:{edge}")).await
    }

    async fn list_of(&self, edge: PublicKey, path: &str) -> Result<Vec<Transport>, ServiceError> {
        let request = request(Method::GET, path, Bytes::new())?;
        match self.0.signed_call(request, LIST_BYTES_MAX).await {
            Ok(answer) => {
                let mut found: Vec<Transport> = read_list(path, answer.body())?;
                found.retain(|transport| transport.edges.contains(&edge));
                Ok(found)
            }
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The transports of several visors; only services of 2026 and later know the call.
    pub async fn transports_of_all(
        &self,
        edges: &[PublicKey],
    ) -> Result<Vec<Transport>, ServiceError> {
        let path = "/transports/edges";
        let keys: Vec<_> = edges.iter().copied().map(KeyText).collect();
        let answer = self.0.signed_send(Method::POST, path, &keys, LIST_BYTES_MAX).await?;
        read_list(path, answer.body())
    }

    /// Every transport.
    pub async fn all(&self) -> Result<Vec<Transport>, ServiceError> {
        let path = "/all-transports";
        let answer = self.0.call(request(Method::GET, path, Bytes::new())?, LIST_BYTES_MAX).await?;
        read_list(path, answer.body())
    }

    /// Deletes one of our transports. One that is not there is success.
    pub async fn delete(&self, id: TransportId) -> Result<(), ServiceError> {
        let request = request(Method::DELETE, &format!("/transports/id:{id}"), Bytes::new())?;
        found_or_not(self.0.signed_call(request, SMALL_BYTES_MAX).await.map(drop))
    }

    /// Deletes several of our transports: in one request where the service knows how (2026), else one by one.
    pub async fn delete_all(&self, ids: &[TransportId]) -> Result<(), ServiceError> {
        let path = "/transports/delete-batch";
        let request = request(Method::POST, path, json(path, ids)?)?;
        match self.0.signed_call(request, LIST_BYTES_MAX).await {
            Ok(_) => Ok(()),
            Err(ServiceError::NotFound(_)) => self.delete_each(ids).await,
            Err(ServiceError::Refused { status, .. }) if status.as_u16() == 405 => {
                self.delete_each(ids).await
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_each(&self, ids: &[TransportId]) -> Result<(), ServiceError> {
        for id in ids {
            self.delete(*id).await?;
        }
        Ok(())
    }

    /// Tells that we are up (2026, when the Uptime Tracker moved here).
    pub async fn heartbeat(&self, version: &str) -> Result<(), ServiceError> {
        crate::services::uptime_tracker::heartbeat(&self.0, version).await
    }

    /// Which visors are up (2026, the same).
    pub async fn uptimes(&self, query: &SummaryQuery) -> Result<Vec<Uptime>, ServiceError> {
        query.ask(&self.0).await
    }

    /// Deletes anybody's transports, as a network monitor.
    pub async fn deregister(
        &self,
        monitor: &Monitor,
        ids: &[TransportId],
    ) -> Result<(), ServiceError> {
        monitor.deregister(&self.0, "/transports/deregister", ids).await
    }
}

/// Deleting what is not there has reached its aim.
fn found_or_not(result: Result<(), ServiceError>) -> Result<(), ServiceError> {
    match result {
        Err(ServiceError::NotFound(_)) => Ok(()),
        other => other,
    }
}
