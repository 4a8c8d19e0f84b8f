//! The client of a Route Finder (`services.md §7`).

use std::{collections::HashMap, sync::Arc};

use http::Method;
use serde::Serialize;

use super::{Edge, Route, RouteOptions, Routes, is_sound};
use crate::{
    access::Repeatable,
    services::{
        CallOptions, Caller, ServiceError,
        call::{LIST_BYTES_MAX, json, read, request},
    },
    transport::HttpTransport,
};

/// A client of one Route Finder. It needs no key.
#[derive(Clone)]
pub struct RouteFinderClient(Caller);

impl RouteFinderClient {
    /// `transport` is bound to the service.
    #[must_use]
    pub fn new(transport: Arc<dyn HttpTransport>, options: CallOptions) -> Self {
        Self(Caller::open(transport, options))
    }

    /// What every service has: health.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0
    }

    /// Routes for each edge, shortest first. [`ServiceError::NotFound`] if one of them has none.
    ///
    /// Only routes that lead where we asked, hop by hop and within the bounds, are passed on: the service is not
    /// trusted to have computed them well. An edge left without any is [`ServiceError::NotFound`] too.
    pub async fn routes(
        &self,
        edges: &[Edge],
        options: RouteOptions,
    ) -> Result<Routes, ServiceError> {
        #[derive(Serialize)]
        struct Question<'a> {
            #[serde(rename = "Edges")]
            edges: &'a [Edge],
            #[serde(rename = "Opts")]
            options: RouteOptions,
        }
        let path = "/routes";
        let body = json(path, &Question { edges, options })?;
        let mut question = request(Method::POST, path, body)?;
        // A POST in name only.
        question.extensions_mut().insert(Repeatable(true));
        let answer = self.0.call(question, LIST_BYTES_MAX).await?;
        let found: HashMap<Edge, Option<Vec<Route>>> = read(path, answer.body())?;
        let mut routes = Routes::new();
        for edge in edges {
            let mut list = found.get(edge).cloned().flatten().unwrap_or_default();
            list.retain(|route| is_sound(route, *edge, options));
            if list.is_empty() {
                return Err(ServiceError::NotFound(format!(
                    "no route from {} to {}",
                    edge.from, edge.to
                )));
            }
            routes.insert(*edge, list);
        }
        Ok(routes)
    }
}
