//! The status on loopback: a page, JSON and metrics.

use std::sync::Arc;

use axum::{Json, Router, response::IntoResponse, routing::get};
use http::header;
use tokio::net::TcpListener;

use crate::{
    cli::page,
    http::server::{ServeConfig, ServeStats},
    visor::Visor,
};

/// Serves `/`, `/status.json` and `/metrics` until it is dropped.
pub(super) async fn serve(listener: TcpListener, visor: Arc<Visor>) {
    let stats = Arc::new(ServeStats::default());
    let router = router(&visor);
    // The pages hold the visor weakly: a connection that somebody keeps open must not keep it running.
    drop(visor);
    let forever = std::future::pending();
    crate::http::server::serve(listener, router, ServeConfig::default(), stats, forever).await;
}

fn router(visor: &Arc<Visor>) -> Router {
    let fresh = [(header::CACHE_CONTROL, "no-store")];
    let (for_status, for_metrics) = (Arc::downgrade(visor), Arc::downgrade(visor));
    let status = move || {
        let status = for_status.upgrade().map(|visor| visor.status().to_json());
        async move { (fresh, Json(status)).into_response() }
    };
    let metrics = move || {
        let text = for_metrics.upgrade().map(|visor| visor.overlay().metrics().text());
        let plain = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
        async move { (plain, text.unwrap_or_default()).into_response() }
    };
    Router::new()
        .route("/", page::serve(include_str!("page.html")))
        .route("/status.json", get(status))
        .route("/metrics", get(metrics))
}
