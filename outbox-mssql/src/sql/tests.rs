//! Every text, for a reviewer to see what a change does to it.

use super::*;
use crate::config::Config;

#[test]
fn texts() {
    let names = Names::new(&Config::new()).unwrap();
    let Statements {
        insert,
        insert_ready,
        insert_batch,
        ddl,
        server,
        lock,
        read_meta,
        join_group,
        claim_leases,
        release_leases,
        leave_group,
        group,
        versions,
        locks,
        deliver,
        deliver_and_keep,
        lock_leases,
        lock_rows,
        retry,
        bury,
        delete,
        delete_and_keep,
        blocked,
        set_due,
        hold_later,
        blocking,
        fronts,
        purge,
        pick_dead,
        list_dead,
        lock_dead,
        own_positions,
        lowest,
        redrive,
        drawn_positions,
        delete_dead,
    } = &Statements::new(&names);
    for (name, text) in [
        ("ddl", ddl),
        ("insert", insert),
        ("insert_ready", insert_ready),
        ("insert_batch", insert_batch),
        ("server", server),
        ("lock", lock),
        ("read_meta", read_meta),
        ("join_group", join_group),
        ("claim_leases", claim_leases),
        ("release_leases", release_leases),
        ("leave_group", leave_group),
        ("group", group),
        ("database", &inspecting::DATABASE.to_owned()),
        ("transactions", &inspecting::TRANSACTIONS.to_owned()),
        ("rights", &inspecting::RIGHTS.to_owned()),
        ("indexes", &inspecting::INDEXES.to_owned()),
        ("deliver", deliver),
        ("deliver_and_keep", deliver_and_keep),
        ("lock_leases", lock_leases),
        ("lock_rows", lock_rows),
        ("retry", retry),
        ("bury", bury),
        ("delete", delete),
        ("delete_and_keep", delete_and_keep),
        ("blocked", blocked),
        ("set_due", set_due),
        ("hold_later", hold_later),
        ("blocking", blocking),
        ("fronts", fronts),
        ("purge", purge),
        ("pick_dead", &format!("{}…{}", pick_dead.0, pick_dead.1)),
        ("list_dead", &format!("{}…{}", list_dead.0, list_dead.1)),
        ("lock_dead", lock_dead),
        ("own_positions", own_positions),
        ("lowest", lowest),
        ("redrive", redrive),
        ("drawn_positions", drawn_positions),
        ("delete_dead", delete_dead),
    ] {
        insta::assert_snapshot!(name, text);
    }
    for (mode, ReadStatements { look, read, due, fetch, stats, peek }) in
        [("versions", versions), ("locks", locks)]
    {
        for (name, text) in
            [("look", look), ("read", read), ("due", due), ("fetch", fetch), ("stats", stats), ("peek", peek)]
        {
            insta::assert_snapshot!(format!("{name}_by_{mode}"), text);
        }
    }
    let InboxStatements { ddl, lock: _, accept, purge } = &InboxStatements::new(&names);
    for (name, text) in [("inbox_ddl", ddl), ("inbox_accept", accept), ("inbox_purge", purge)] {
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn no_statement_has_a_bare_name() {
    let config = Config::new().schema("Some [schema]").prefix("Odd'; name");
    let statements = Statements::new(&Names::new(&config).unwrap());
    let Statements { locks, redrive, bury, fronts, deliver_and_keep, .. } = &statements;
    for text in [&locks.fetch, &locks.look, redrive, bury, fronts, deliver_and_keep] {
        assert!(!text.contains("outbox_") && !text.contains("dbo"), "{text}");
        assert!(text.contains("[Some [schema]]].[Odd'; name_"), "{text}");
    }
    // As data it is quoted as data.
    assert!(statements.ddl.contains("SCHEMA_ID(N'Some [schema]')"));
    assert!(statements.ddl.contains("N'ALTER TABLE [Some [schema]]].[Odd''; name_message]"));
}

#[test]
fn what_is_read_without_versions_is_read_twice_and_waits_for_nobody() {
    let Statements { versions, locks, .. } = Statements::new(&Names::new(&Config::new()).unwrap());
    let count = |text: &str, what: &str| text.matches(what).count();
    for (one, other) in [(&versions.read, &locks.read), (&versions.due, &locks.due)] {
        assert_eq!(count(one, "READPAST"), 0);
        assert!(count(other, "DATALENGTH") == 2 * count(one, "DATALENGTH"));
    }
    // All that may be locked by those who enqueue: every look into the table of messages, but for blocking rows.
    for text in [&locks.look, &locks.read, &locks.due, &locks.fetch, &locks.peek] {
        for from in text.split("[outbox_message] AS m").skip(1) {
            let hints = from.lines().next().unwrap_or_default();
            assert!(hints.contains("READPAST") || hints.contains("READUNCOMMITTED"), "{from}");
        }
    }
}
