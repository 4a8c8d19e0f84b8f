//! A list that many ask for at once: made once, and handed to all of them as one buffer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use tokio::sync::Mutex;

use crate::discovery::UnixNanos;

/// How long what expired may still stand in a list.
const AGE_MAX: Duration = Duration::from_secs(1);

/// A text is good for this many times the time that it took to make, so that making it takes a fifth of a core at most,
/// however often the content changes.
const REST: u32 = 4;

/// A text that is made within this time is made anew at each change.
const QUICK: Duration = Duration::from_millis(5);

/// The text of a list. The lock is held while it is made, also when whoever asked for it is gone, so that it is made once.
#[derive(Clone, Default)]
pub(in crate::services) struct SharedText(Arc<Mutex<Option<Text>>>);

struct Text {
    version: u64,
    /// By the service's clock, by which records expire.
    at: UnixNanos,
    made: Instant,
    rests: Duration,
    text: Bytes,
}

impl Text {
    fn is_fresh(&self, version: u64, now: UnixNanos) -> bool {
        let is_young = now >= self.at && now < self.at.plus(AGE_MAX);
        self.made.elapsed() < self.rests || (self.version == version && is_young)
    }
}

impl SharedText {
    /// The text of this version of the content, at this time of the service's clock; `make` runs where it holds up no
    /// other request.
    pub(in crate::services) async fn text(
        &self,
        version: u64,
        now: UnixNanos,
        make: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Bytes {
        let mut kept = Arc::clone(&self.0).lock_owned().await;
        if let Some(fresh) = kept.as_ref().filter(|text| text.is_fresh(version, now)) {
            return fresh.text.clone();
        }
        let work = move || {
            let begun = Instant::now();
            let text = Bytes::from(make());
            let made = Instant::now();
            let took = made - begun;
            let rests = if took > QUICK { took * REST } else { Duration::ZERO };
            *kept = Some(Text { version, at: now, made, rests, text: text.clone() });
            text
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }
}

/// An answer that is JSON already.
pub(in crate::services) fn json_text(text: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_buffer_and_a_change_makes_another() {
        let shared = SharedText::default();
        let slow = || {
            // Work that takes its time.
            let begun = Instant::now();
            while begun.elapsed() < 2 * QUICK {}
            vec![b'1']
        };
        let (one, other) = tokio::join!(
            shared.text(1, NOW, slow),
            shared.text(1, NOW, || unreachable!("made once"))
        );
        assert_eq!(one.as_ptr(), other.as_ptr());
        // A change right behind it is told when the text has had its rest.
        let begun = Instant::now();
        while shared.text(2, NOW, || vec![b'2']).await == "1" {
            assert!(begun.elapsed() < Duration::from_secs(10), "a change is never told");
        }
        assert!(begun.elapsed() > QUICK, "it had no rest");
        // A quick one needs none, unless this thread was held up just then.
        while shared.text(3, NOW, || vec![b'3']).await != "3" {
            assert!(begun.elapsed() < Duration::from_secs(10), "a change is never told");
        }
        assert_eq!(shared.text(3, NOW, || unreachable!("nothing has changed")).await, "3");
        // One who leaves while it is made leaves it to the next.
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let left = shared.text(4, NOW, move || {
            let _ = gone.recv();
            vec![b'4']
        });
        assert!(futures_util::poll!(Box::pin(left)).is_pending());
        let next = shared.text(4, NOW, || unreachable!("it is being made"));
        drop(go);
        assert_eq!(next.await, "4");
        while shared.text(4, NOW.plus(AGE_MAX), || vec![b'5']).await != "5" {
            assert!(begun.elapsed() < Duration::from_secs(10), "what expired is never left out");
        }
    }
}
