//! Long lists come in pages: `?limit=` items at most, `?cursor=` from the page before, `next_cursor` in the
//! answer while there is more.

use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_catalog::{Page, PageRequest};

use crate::problem::{Answer, Problem};

/// Items a page holds where the client does not say.
const DEFAULT_LIMIT: u32 = 100;

/// Items a page holds at most.
const MAX_LIMIT: u32 = 1000;

/// The paging part of a query string.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct PageQuery {
    /// At most so many items (1 to 1000, 100 by default).
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// Checks what the client asked for.
pub(crate) fn page(limit: Option<u32>, cursor: Option<String>) -> Answer<PageRequest> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::invalid_field("limit", format!("limit takes 1 to {MAX_LIMIT}, not {limit}")));
    }
    if cursor.as_ref().is_some_and(|text| text.is_empty() || text.len() > 500) {
        return Err(Problem::invalid_field("cursor", "cursor takes the next_cursor of an earlier page"));
    }
    Ok(PageRequest { limit, cursor })
}

impl PageQuery {
    /// Checks what the client asked for.
    pub(crate) fn request(self) -> Answer<PageRequest> {
        page(self.limit, self.cursor)
    }
}

/// Cuts one page out of a list that the catalog hands out whole. `key_of` is unique; the list is put into its
/// order, so that items which come or go between two pages neither repeat nor hide others.
pub(crate) fn cut<T>(mut items: Vec<T>, request: &PageRequest, key_of: impl Fn(&T) -> String) -> Page<T> {
    items.sort_by_cached_key(&key_of);
    if let Some(cursor) = &request.cursor {
        items.retain(|item| key_of(item) > *cursor);
    }
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(key_of) } else { None };
    Page { items, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once() {
        let all = ["d", "a", "c", "b", "e"];
        let mut request = PageRequest { limit: 2, cursor: None };
        let mut seen = Vec::new();
        loop {
            let page = cut(all.to_vec(), &request, |item| (*item).to_owned());
            seen.extend(page.items);
            match page.next {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn limits_are_held() {
        assert_eq!(PageQuery::default().request().unwrap().limit, DEFAULT_LIMIT);
        for wrong in [0, 1001] {
            let query = PageQuery { limit: Some(wrong), cursor: None };
            assert_eq!(query.request().unwrap_err().field(), Some("limit"));
        }
        let query = PageQuery { limit: Some(1), cursor: Some(String::new()) };
        assert_eq!(query.request().unwrap_err().field(), Some("cursor"));
    }
}
