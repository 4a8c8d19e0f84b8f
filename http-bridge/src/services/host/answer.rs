//! What requests bring and answers carry: JSON, with Go's ways of saying that there is nothing.

use axum::response::{IntoResponse, Response};
use serde::{Serialize, de::DeserializeOwned};

use super::{ApiError, Host};

/// A value.
pub(in crate::services) fn json(value: &impl Serialize) -> Response {
    axum::Json(value).into_response()
}

/// A list, `null` when it is empty and Go is to be imitated.
pub(in crate::services) fn list<T: Serialize>(host: &Host, items: Vec<T>) -> Response {
    json(&Some(items).filter(|items| !(items.is_empty() && host.config().quirks.null_lists)))
}

/// The text of a list, as [`list`] answers it.
pub(in crate::services) fn list_text<T: Serialize>(host: &Host, items: Vec<T>) -> Vec<u8> {
    let items = Some(items).filter(|items| !(items.is_empty() && host.config().quirks.null_lists));
    serde_json::to_vec(&items).unwrap_or_default()
}

/// What Go answers to a deregistration.
pub(in crate::services) fn null() -> Response {
    json(&serde_json::Value::Null)
}

/// A list from a request; `null` is an empty one.
pub(in crate::services) fn read_list<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, ApiError> {
    let list: Option<Vec<T>> = serde_json::from_slice(body).map_err(ApiError::bad)?;
    Ok(list.unwrap_or_default())
}
