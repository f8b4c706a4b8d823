//! Paged lists: `?limit=&cursor=` in, `{"items": [...], "next": "..."}` out.
//!
//! Pages are keyset pages: the cursor is the key of the last item seen, so a page costs the same wherever it
//! is in the list, and rows that come or go between two pages neither repeat nor hide others. Clients treat
//! the cursor as opaque. To know whether there is a next page, ask the store for [`PageRequest::fetch`]
//! rows, one more than the page shows.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::extract::Params;

/// Items on a page if the client does not say.
pub const DEFAULT_LIMIT: u16 = 20;
/// Most items on a page.
pub const MAX_LIMIT: u16 = 100;

/// What the client asked for; `K` is the type of the key that the list is ordered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<K> {
    /// Items on the page, 1 to [`MAX_LIMIT`].
    pub limit: u16,
    /// Only items after this key.
    pub after: Option<K>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The items, in order of their key.
    pub items: Vec<T>,
    /// Cursor of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<K: FromStr> PageRequest<K> {
    /// Takes `limit` and `cursor`; faults are noted in `params`.
    pub fn take(params: &mut Params) -> Self {
        let limit = params.take::<u16>("limit").unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            params.fault("limit", format_args!("must be from 1 to {MAX_LIMIT}"));
        }
        let after = params.take::<String>("cursor").and_then(|cursor| {
            let key = cursor.parse().ok();
            if key.is_none() {
                params.fault(
                    "cursor",
                    "is not a cursor of this list; send `next` of the page before",
                );
            }
            key
        });
        Self { limit, after }
    }
}

impl<K> PageRequest<K> {
    /// How many rows to ask the store for.
    pub fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Makes the page of up to [`PageRequest::fetch`] rows.
    pub fn page<T, C: fmt::Display>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> C) -> Page<T> {
        let limit = usize::from(self.limit);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| key(last).to_string());
        Page { items: rows, next }
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;
    use http::Request;

    use super::*;

    async fn take(query: &str) -> Result<PageRequest<u64>, Vec<String>> {
        let request = Request::get(format!("/orders?{query}")).body(()).unwrap();
        let mut params = Params::from_request_parts(&mut request.into_parts().0, &())
            .await
            .unwrap();
        let page = PageRequest::take(&mut params);
        match params.finish() {
            Ok(()) => Ok(page),
            Err(faults) => Err(faults.into_iter().map(|fault| fault.field).collect()),
        }
    }

    #[tokio::test]
    async fn limit_and_cursor_are_bounded_and_checked() {
        assert_eq!(
            take("").await,
            Ok(PageRequest {
                limit: 20,
                after: None
            })
        );
        assert_eq!(
            take("limit=5&cursor=7").await,
            Ok(PageRequest {
                limit: 5,
                after: Some(7)
            })
        );
        for bad in ["0", "101", "-1", "many", "70000"] {
            assert_eq!(
                take(&format!("limit={bad}")).await,
                Err(vec!["limit".to_owned()]),
                "{bad}"
            );
        }
        assert_eq!(take("cursor=x").await, Err(vec!["cursor".to_owned()]));
    }

    #[test]
    fn there_is_a_next_page_only_if_one_row_more_was_found() {
        let request = PageRequest::<u64> {
            limit: 2,
            after: None,
        };
        assert_eq!(request.fetch(), 3);
        let page = |rows: &[u64]| request.page(rows.to_vec(), |row| *row);
        assert_eq!(
            page(&[1, 2, 3]),
            Page {
                items: vec![1, 2],
                next: Some("2".to_owned())
            }
        );
        assert_eq!(
            page(&[1, 2]),
            Page {
                items: vec![1, 2],
                next: None
            }
        );
        assert_eq!(
            page(&[]),
            Page {
                items: vec![],
                next: None
            }
        );
    }
}
