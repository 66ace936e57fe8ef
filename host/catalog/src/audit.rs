//! The audit trail: appended to, read, never changed.

use crate::Catalog;
use crate::error::Result;
use crate::pages::{number_cursor, page, rows_wanted};
use crate::records::{AuditEntry, Page, PageRequest};
use crate::statement::{Row, Statement};

impl Catalog {
    /// Adds a line, durably on return.
    ///
    /// # Errors
    /// `Invalid` for an outcome other than `ok`, `denied` or `failed`.
    pub async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        let AuditEntry { at, actor, action, target, outcome, detail_json } = entry;
        let mut transaction = self.database.begin().await?;
        let sequence = transaction.next_number("audit").await?;
        let insert = Statement::new(
            "INSERT INTO audit (sequence, at, actor, action, target, outcome, detail_json)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        );
        let insert = insert.bind(sequence).bind(*at).bind(actor).bind(action).bind(target);
        transaction.execute(insert.bind(outcome).bind(detail_json)).await?;
        transaction.commit().await
    }

    /// The trail, the newest line first.
    ///
    /// # Errors
    /// `Invalid` for a wrong limit or cursor.
    pub async fn list_audit(&self, request: &PageRequest) -> Result<Page<AuditEntry>> {
        let query = Statement::new("SELECT * FROM audit WHERE 1 = 1");
        let query = query.and_if(" AND sequence < {}", number_cursor(request)?);
        let query = query.and(" ORDER BY sequence DESC LIMIT {}", rows_wanted(request)?);
        let rows = self.database.fetch_all(query).await?;
        let lines = rows.iter().map(|row| Ok((row.integer("sequence")?, entry_of(row)?)));
        let lines = lines.collect::<Result<Vec<(i64, AuditEntry)>>>()?;
        let page = page(lines, request, |(sequence, _)| sequence.to_string());
        Ok(Page { items: page.items.into_iter().map(|(_, entry)| entry).collect(), next: page.next })
    }
}

fn entry_of(row: &Row) -> Result<AuditEntry> {
    Ok(AuditEntry {
        at: row.time("at")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        target: row.text("target")?,
        outcome: row.text("outcome")?,
        detail_json: row.text("detail_json")?,
    })
}
