//! Dialling from within the directory: a client that is not there yet, and keys that need no look-up.

use std::sync::{Arc, OnceLock};

use dmsg_engine::{
    client::{Client, Stream, WeakClient},
    pool::StreamUse,
    wire::Addr,
};

use super::StaticMap;
use crate::http::{BoxError, Dial};

/// The client that a directory dials through, once there is one: the directory is made before it, and must not keep it
/// running.
#[derive(Clone, Default)]
pub struct LateClient(Arc<OnceLock<WeakClient>>);

impl LateClient {
    /// Names the client. Only the first call counts.
    pub fn set(&self, client: &Client) {
        let _ = self.0.set(client.downgrade());
    }

    fn client(&self) -> Result<Client, BoxError> {
        let client = self.0.get().ok_or("the client is still starting")?;
        Ok(client.upgrade().ok_or("the client is closed")?)
    }
}

impl Dial for LateClient {
    type Stream = Stream;

    async fn dial(&self, to: Addr) -> Result<Stream, BoxError> {
        Dial::dial(&self.client()?, to).await
    }

    async fn dial_for(&self, to: Addr, label: &Arc<str>) -> Result<Stream, BoxError> {
        self.client()?.dial_for(to, label).await
    }

    fn usage(stream: &Stream) -> Option<Arc<StreamUse>> {
        Client::usage(stream)
    }
}

/// Dials peers of the static map and nobody else, so that a dial from within a look-up never leads to a look-up.
#[derive(Clone)]
pub struct PinnedDial {
    client: LateClient,
    map: Arc<StaticMap>,
}

impl PinnedDial {
    /// Through this client, to the peers of this map.
    #[must_use]
    pub fn new(client: LateClient, map: Arc<StaticMap>) -> Self {
        Self { client, map }
    }

    fn check(&self, to: Addr) -> Result<(), BoxError> {
        if self.map.is_pinned(&to.key) {
            return Ok(());
        }
        Err(format!("{} is no service of this deployment", to.key).into())
    }
}

impl Dial for PinnedDial {
    type Stream = Stream;

    async fn dial(&self, to: Addr) -> Result<Stream, BoxError> {
        self.check(to)?;
        self.client.dial(to).await
    }

    async fn dial_for(&self, to: Addr, label: &Arc<str>) -> Result<Stream, BoxError> {
        self.check(to)?;
        self.client.dial_for(to, label).await
    }

    fn usage(stream: &Stream) -> Option<Arc<StreamUse>> {
        Client::usage(stream)
    }
}
