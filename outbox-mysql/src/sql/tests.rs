//! Every text, for a reviewer to see what a change does to it.

use super::*;
use crate::config::Config;

#[test]
fn texts() {
    let statements = Statements::new(&Names::new(&Config::new()).unwrap());
    let Statements {
        names: _,
        insert,
        ddl,
        finish_ddl,
        read_meta,
        lock_group,
        forget_relays,
        join_group,
        extend_leases,
        read_group,
        own_leases,
        free_leases,
        claim_leases,
        release_leases,
        release_all_leases,
        leave_group,
        look,
        fetch,
        deliver,
        lock_leases,
        lock_rows,
        blocked,
        retry,
        set_due,
        bury,
        keep_delivered,
        delete,
        hold_later,
        fronts,
        anything,
        purge,
        stats,
        lowest,
        redrive,
        delete_dead,
        lock_dead,
        relays,
        owners,
        peek,
        clock,
    } = &statements;
    insta::assert_snapshot!("ddl", [&ddl[..], finish_ddl].concat().join(";\n"));
    let ranges = Ranges::for_so_many(2);
    for (name, statement) in [
        ("insert", insert),
        ("insert_batch", &statements.insert_batch(2)),
        ("read_meta", read_meta),
        ("lock_group", lock_group),
        ("forget_relays", forget_relays),
        ("join_group", join_group),
        ("extend_leases", extend_leases),
        ("read_group", read_group),
        ("own_leases", own_leases),
        ("free_leases", free_leases),
        ("claim_leases", claim_leases),
        ("release_leases", release_leases),
        ("release_all_leases", release_all_leases),
        ("leave_group", leave_group),
        ("look", look),
        ("look_back", &statements.look_back(2)),
        ("look_again", &statements.look_again(ranges)),
        ("read", &statements.read(ranges, 2)),
        ("fetch", fetch),
        ("witnesses", &statements.witnesses()),
        ("waiting", &statements.waiting(2)),
        ("due", &statements.due(2)),
        ("deliver", deliver),
        ("lock_leases", lock_leases),
        ("lock_rows", lock_rows),
        ("blocked", blocked),
        ("retry", retry),
        ("set_due", set_due),
        ("bury", bury),
        ("keep_delivered", keep_delivered),
        ("delete", delete),
        ("hold_later", hold_later),
        ("blocking", &statements.blocking(2)),
        ("blocking_dead", &statements.blocking_dead()),
        ("fronts", fronts),
        ("anything", anything),
        ("purge", purge),
        ("stats", stats),
        ("list_dead", &statements.list_dead("TRUE")),
        ("pick_dead", &statements.pick_dead("TRUE")),
        ("lock_dead", lock_dead),
        ("relays", relays),
        ("owners", owners),
        ("peek", peek),
        ("clock", clock),
        ("lowest", lowest),
        ("redrive", redrive),
        ("delete_dead", delete_dead),
    ] {
        insta::assert_snapshot!(name, statement.as_str());
    }
}

#[test]
fn no_statement_has_a_bare_name() {
    let config = Config::new().database("Some `database`").prefix("Odd; name");
    let statements = Statements::new(&Names::new(&config).unwrap());
    let ranges = Ranges::for_so_many(1);
    for statement in
        [statements.read(ranges, 1), statements.due(1), statements.bury.clone(), statements.fronts.clone()]
    {
        let text = statement.as_str();
        assert!(!text.contains("outbox_"), "{text}");
        assert!(text.contains("`Some ``database```.`Odd; name_"), "{text}");
    }
}
