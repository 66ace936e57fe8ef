//! Tokens and the audit trail.

use tidemark_catalog::{AuditEntry, ErrorKind, PageRequest, Role, Token};
use tidemark_model::TokenId;

use crate::engines::{Fixture, START, refused};
use crate::on_both_engines;

on_both_engines!(a_revoked_token_opens_nothing, the_trail_pages_while_it_grows);

fn token(name: &str) -> Token {
    Token {
        id: TokenId::random(),
        name: name.into(),
        role: Role::Operator,
        digest: format!("digest of {name}"),
        created_at: START,
        revoked_at: None,
    }
}

async fn a_revoked_token_opens_nothing(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (ci, admin) = (token("ci"), Token { role: Role::Admin, ..token("admin") });
    catalog.add_token(&ci).await.unwrap();
    catalog.add_token(&admin).await.unwrap();
    refused(catalog.add_token(&token("ci")).await, ErrorKind::Conflict);
    refused(catalog.add_token(&Token { digest: ci.digest.clone(), ..token("x") }).await, ErrorKind::Conflict);
    assert_eq!(catalog.token_by_digest(&ci.digest).await.unwrap(), Some(ci.clone()));
    assert_eq!(catalog.token_by_digest("digest").await.unwrap(), None);

    let revoked = catalog.revoke_token("ci", START.plus_millis(1)).await.unwrap();
    assert_eq!(revoked, Token { revoked_at: Some(START.plus_millis(1)), ..ci.clone() });
    assert_eq!(catalog.token_by_digest(&ci.digest).await.unwrap(), None);
    let again = catalog.revoke_token(&ci.id.to_string(), START.plus_millis(2)).await.unwrap();
    assert_eq!(again, revoked);
    refused(catalog.revoke_token("nobody", START).await, ErrorKind::NotFound);
    assert_eq!(catalog.list_tokens().await.unwrap(), [admin, revoked]);
}

async fn the_trail_pages_while_it_grows(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let entry = |number: i64| AuditEntry {
        at: START,
        actor: "admin".into(),
        action: "connector.add".into(),
        target: format!("vc-{number}"),
        outcome: "ok".into(),
        detail_json: "{}".into(),
    };
    for number in 0..5 {
        catalog.append_audit(&entry(number)).await.unwrap();
    }
    refused(
        catalog.append_audit(&AuditEntry { outcome: "maybe".into(), ..entry(9) }).await,
        ErrorKind::Invalid,
    );
    let (mut request, mut seen) = (PageRequest { limit: 2, cursor: None }, Vec::new());
    loop {
        let page = catalog.list_audit(&request).await.unwrap();
        seen.extend(page.items);
        catalog.append_audit(&entry(100)).await.unwrap();
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..5).rev().map(entry).collect::<Vec<_>>());
}
