//! Long lists in parts. A cursor names the last item that was handed out, not a count, so that items which come or
//! go meanwhile neither repeat nor hide others.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::records::{Page, PageRequest};

/// The most that one page holds.
const LIMIT: u32 = 1000;

/// How many rows to ask for: one more than the page holds, which tells whether there is a next one.
pub(crate) fn rows_wanted(request: &PageRequest) -> Result<i64> {
    if request.limit == 0 || request.limit > LIMIT {
        return Err(Error::invalid(format!("a page holds 1 to {LIMIT} items, not {}", request.limit)));
    }
    Ok(i64::from(request.limit) + 1)
}

/// The cursor of a list that is ordered by one number.
pub(crate) fn number_cursor(request: &PageRequest) -> Result<Option<i64>> {
    request.cursor.as_deref().map(parse).transpose()
}

/// The cursor of a list that is ordered by a number and, where that is equal, by an id.
pub(crate) fn number_and_id_cursor<I: FromStr>(request: &PageRequest) -> Result<Option<(i64, I)>> {
    let Some(cursor) = request.cursor.as_deref() else {
        return Ok(None);
    };
    let (number, id) = cursor.split_once('.').ok_or_else(|| bad(cursor))?;
    Ok(Some((parse(number)?, parse(id)?)))
}

/// Cuts the answer to its page; `cursor_of` names an item.
pub(crate) fn page<T>(mut items: Vec<T>, request: &PageRequest, cursor_of: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor_of) } else { None };
    Page { items, next }
}

fn parse<N: FromStr>(text: &str) -> Result<N> {
    text.parse().map_err(|_| bad(text))
}

fn bad(cursor: &str) -> Error {
    Error::invalid(format!("'{cursor}' is no cursor of this list"))
}
