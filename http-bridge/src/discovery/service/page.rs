//! One part of a long list: `?limit=N&after=KEY`, which discoveries in Go do not know and ignore.
//!
//! ```text
//!   all members in ascending order of their keys    … a  b │ c  d  e │ f …
//!                            after=b, limit=3              └─ page ──┘ next: after=e
//! ```
//!
//! A key marks the place rather than a number, so that members which come and go meanwhile neither repeat nor hide others.

use dmsg_engine::identity::PublicKey;

use crate::discovery::codec::parse_key;

/// Members of a page at most: 700 KiB of keys, and of entries 5 MiB as a rule.
pub const PAGE_MAX: usize = 10_000;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::discovery) struct Page {
    limit: usize,
    after: Option<PublicKey>,
}

/// `limit` or `after` is none.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::discovery) struct BadPage;

impl Page {
    /// The part that a query asks for; `None` for the whole list, as Go's clients want it.
    pub(in crate::discovery) fn of(query: Option<&str>) -> Result<Option<Self>, BadPage> {
        let (mut limit, mut after) = (None, None);
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("limit", text)) => {
                    let number = text.parse().ok().filter(|number| *number > 0);
                    limit = Some(number.ok_or(BadPage)?);
                }
                Some(("after", text)) => {
                    after = Some(parse_key(text).flatten().ok_or(BadPage)?);
                }
                _ => {}
            }
        }
        if limit.is_none() && after.is_none() {
            return Ok(None);
        }
        Ok(Some(Self { limit: limit.unwrap_or(PAGE_MAX).min(PAGE_MAX), after }))
    }

    /// The page's members, and the query of the next page if there is one. `sorted` is in ascending order of `key`.
    pub(super) fn cut<'a, T>(
        &self,
        sorted: &'a [T],
        key: impl Fn(&T) -> PublicKey,
    ) -> (&'a [T], Option<String>) {
        let from = self.after.map_or(0, |after| sorted.partition_point(|m| key(m) <= after));
        let rest = &sorted[from..];
        let page = &rest[..rest.len().min(self.limit)];
        let next = page.last().filter(|_| page.len() < rest.len());
        (page, next.map(|last| format!("limit={}&after={}", self.limit, key(last))))
    }

    /// Whether it is not the first one.
    pub(super) fn goes_on(&self) -> bool {
        self.after.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;

    fn keys(count: u8) -> Vec<PublicKey> {
        let mut keys: Vec<_> =
            (0..count).map(|n| SecretKey::from_seed(&[n]).public_key()).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        let all = keys(7);
        let mut query = Some("x=y&limit=3".to_owned());
        let mut seen = Vec::new();
        while let Some(text) = query {
            let page = Page::of(Some(&text)).unwrap().unwrap();
            let (part, next) = page.cut(&all, |key| *key);
            assert!(part.len() == 3 || next.is_none());
            seen.extend_from_slice(part);
            query = next;
        }
        assert_eq!(seen, all);
        let last = format!("after={}", all[6]);
        assert_eq!(Page::of(Some(&last)).unwrap().unwrap().cut(&all, |key| *key), (&[][..], None));
        // The place stays where it was when its key has gone.
        let (gone, rest) = (all[3], [&all[..3], &all[4..]].concat());
        let page = Page::of(Some(&format!("after={gone}&limit=2"))).unwrap().unwrap();
        assert_eq!(page.cut(&rest, |key| *key).0, &all[4..6]);
    }

    #[test]
    fn a_whole_list_is_the_default_and_no_page_is_longer_than_the_limit() {
        for whole in [None, Some(""), Some("limitless=1"), Some("timeout=true")] {
            assert_eq!(Page::of(whole), Ok(None));
        }
        let huge = Page::of(Some("limit=999999999")).unwrap().unwrap();
        assert_eq!(huge.limit, PAGE_MAX);
        let bad =
            ["limit=", "limit=0", "limit=-1", "limit=x", "after=", "after=zz", "limit=5&after=0"];
        for query in bad {
            assert_eq!(Page::of(Some(query)), Err(BadPage), "{query}");
        }
    }
}
