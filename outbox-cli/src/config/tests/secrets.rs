//! Secrets are read, and never shown.

use super::*;

#[test]
fn a_secret_comes_from_one_of_three_places_and_is_nowhere_to_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "postgres://me:s3cret@db/shop\n").unwrap();
    let file = file.to_str().unwrap();
    let text = |way: &str| format!("[[route]]\n{PUBLISHER}[route.store]\ntype = \"postgres\"\n{way}\n");
    let environment = [("DATABASE_URL", "postgres://me:s3cret@db/shop")];
    for way in [
        "url = \"postgres://me:s3cret@db/shop\"".to_owned(),
        "url_env = \"DATABASE_URL\"".to_owned(),
        format!("url_file = {file:?}"),
        "url = \"postgres://me@db/shop\"\npassword = \"s3cret\"".to_owned(),
    ] {
        let config = load(&text(&way), &environment, &[]).unwrap();
        let shown = format!("{config:?} {} {}", config.explanation, config.routes[0].store.place());
        assert!(!shown.contains("s3cret") && shown.contains("(hidden)") | way.contains("_"), "{shown}");
        assert!(shown.contains("postgres at db:5432, database shop"), "{shown}");
    }
    // A later layer replaces the way as well as the value.
    let other = [("OUTBOX__STORE__URL", "postgres://me@other/shop")];
    let config = load(&text(&format!("url_file = {file:?}")), &other, &[]).unwrap();
    assert!(config.routes[0].store.place().contains("other"));
    // In one layer, two are one too many.
    let found = faults(&text(&format!("url = \"postgres://me:s3cret@db/shop\"\nurl_file = {file:?}")));
    assert!(
        found.len() == 1 && found[0].ends_with("url_file: cannot be combined with url; keep one of them"),
        "{found:?}"
    );
    // Nor is it seen where it is wrong.
    for wrong in ["s3cret", "postgres:/me:s3cret@db/shop", "postgres://me:s3cret@db:port/shop"] {
        let found = faults(&text(&format!("url = {wrong:?}")));
        assert!(found.len() == 1 && !found[0].contains("s3cret"), "{found:?}");
    }
    let found = faults(&text("url = \"postgres://me@db/shop\"\nmax_connections = \"me:s3cret@db\""));
    assert!(found.len() == 1 && !found[0].contains("s3cret"), "{found:?}");
    // Nor where it stands in place of where it is, or in the place of a field.
    for wrong in ["url_env", "url_file"] {
        let found = faults(&text(&format!("{wrong} = \"postgres://me:s3cret@db/shop\"")));
        assert!(
            found.len() == 1 && found[0].contains("(hidden)") && !found[0].contains("s3cret"),
            "{found:?}"
        );
    }
    let flag = "postgres://me:s3cret@db/shop?sslmode=require";
    let found = load(&text("url = \"postgres://me@db/shop\""), &[], &[flag]).unwrap_err();
    assert!(found.len() == 1 && found[0].starts_with("flag --set: must be"), "{found:?}");
}

#[test]
fn a_password_that_is_not_encoded_is_not_taken_for_a_name_and_shown() {
    for (kind, url) in [
        ("store/postgres", "postgres://me:1/s3cret@db/shop"),
        ("store/postgres", "postgres://me:?s3cret@db/shop"),
        ("store/mysql", "mysql://me:1/s3cret@db/shop"),
        ("store/mssql", "mssql://me:#s3cret@db/shop"),
        ("publisher/amqp", "amqp://me:1/s3cret@broker/orders"),
    ] {
        let (text, line) = settings_with(kind, &format!("url = {url:?}"));
        let (text, line) = replaced(&text, line, "url");
        let found = faults(&text);
        let expected = format!("{NAME}:{line}: {}.url: has an @ behind its host; write / as %2F", path(kind));
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        assert!(!found[0].contains("s3cret"), "{found:?}");
    }
    for (kind, url) in [
        ("store/postgres", "postgres://me:1%2Fs3cret@db/shop"),
        ("store/postgres", "postgres://me@db/shop?application_name=a@b"),
        ("publisher/amqp", "amqp://me:pw@broker/team@shop"),
    ] {
        let (text, line) = settings_with(kind, &format!("url = {url:?}"));
        assert_eq!(faults(&replaced(&text, line, "url").0), [""; 0], "{url}");
    }
}
