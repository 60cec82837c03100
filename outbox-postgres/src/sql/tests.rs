//! Every text, for a reviewer to see what a change does to it.

use outbox_sql::postgres::Config;

use super::*;

#[test]
fn texts() {
    let statements = Statements::new(&Names::new(&Config::new()).unwrap());
    let Statements {
        insert: _,
        insert_batch: _,
        ddl: _,
        create_schema: _,
        create_tables: _,
        read_meta,
        renew,
        remove_stale,
        join_group,
        extend_leases,
        read_group,
        claim_leases,
        release_leases,
        leave_group,
        set_idle,
        open_gate,
        close_gate,
        reopen_gate,
        fetch,
        fetch_large,
        fetch_late,
        fetch_due,
        deliver_free,
        deliver,
        deliver_and_keep,
        lock_rows,
        read_leases,
        lock_leases,
        retry,
        hold,
        bury,
        hold_later,
        release,
        repair,
        purge,
        stats,
        list_dead,
        redrive,
        discard,
        count_dead,
        relays,
        owners,
        peek,
    } = &statements;
    for (name, statement) in [
        ("read_meta", read_meta),
        ("renew", renew),
        ("remove_stale", remove_stale),
        ("join_group", join_group),
        ("extend_leases", extend_leases),
        ("read_group", read_group),
        ("claim_leases", claim_leases),
        ("release_leases", release_leases),
        ("leave_group", leave_group),
        ("set_idle", set_idle),
        ("open_gate", open_gate),
        ("close_gate", close_gate),
        ("reopen_gate", reopen_gate),
        ("fetch", &fetch.once),
        ("fetch_large", &fetch_large.once),
        ("fetch_late", &fetch_late.once),
        ("fetch_due", fetch_due),
        ("deliver_free", deliver_free),
        ("deliver", deliver),
        ("deliver_and_keep", deliver_and_keep),
        ("lock_rows", lock_rows),
        ("read_leases", read_leases),
        ("lock_leases", lock_leases),
        ("retry", retry),
        ("hold", hold),
        ("bury", bury),
        ("hold_later", hold_later),
        ("release", release),
        ("repair", repair),
        ("purge", purge),
        ("stats", stats),
        ("list_dead", list_dead),
        ("redrive", redrive),
        ("discard", discard),
        ("count_dead", count_dead),
        ("relays", relays),
        ("owners", owners),
        ("peek", peek),
    ] {
        insta::assert_snapshot!(name, statement.as_str());
    }
}

#[test]
fn no_statement_has_a_bare_name() {
    let config = Config::new().schema("Some \"schema\"").prefix("Odd; name");
    let statements = Statements::new(&Names::new(&config).unwrap());
    for statement in
        [&statements.fetch.anew, &statements.deliver_and_keep, &statements.redrive, &statements.repair]
    {
        let text = statement.as_str();
        assert!(!text.contains("outbox_") && !text.contains("public"), "{text}");
        assert!(text.contains(r#""Some ""schema"""."Odd; name_"#), "{text}");
    }
}
