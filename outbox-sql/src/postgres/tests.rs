//! Every statement, for a reviewer to see what a change does to it.

use super::*;

#[test]
fn texts() {
    let names = Names::new(&Config::new()).unwrap();
    let InboxStatements { ddl: inbox, accept, purge } = InboxStatements::new(&names);
    for (name, statement) in [
        ("ddl", ddl::all(&names)),
        ("insert", enqueueing::insert(&names)),
        ("insert_batch", enqueueing::insert_batch(&names)),
        ("inbox_ddl", inbox),
        ("inbox_accept", accept),
        ("inbox_purge", purge),
    ] {
        insta::assert_snapshot!(name, statement);
    }
}
