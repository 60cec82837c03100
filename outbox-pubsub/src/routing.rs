//! Which topic of Pub/Sub a message goes to.

use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result};

/// A topic of Pub/Sub: by its full name, or by its id within the publisher's project.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic(String);

impl Topic {
    /// A topic by its id. It is in the project that the publisher's settings name.
    pub fn id(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// A topic by its full name, `projects/PROJECT/topics/ID`.
    pub fn full(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// A topic of any project.
    pub fn of_project(project: &str, id: &str) -> Self {
        Self(format!("projects/{project}/topics/{id}"))
    }

    /// The full name.
    pub(crate) fn resolve(&self, project: Option<&str>) -> Result<String> {
        let (project, id, full) = match self.0.strip_prefix("projects/") {
            Some(rest) => {
                let parts = rest.split_once("/topics/");
                let (project, id) = parts.ok_or_else(|| self.impossible())?;
                (project, id, self.0.clone())
            }
            None => {
                let project = project.ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        "the topic is an id without a project; set the publisher's project, or a route to a full name",
                    )
                    .with("topic", &self.0)
                })?;
                (project, self.0.as_str(), format!("projects/{project}/topics/{}", self.0))
            }
        };
        if is_project(project) && is_topic_id(id) { Ok(full) } else { Err(self.impossible()) }
    }

    fn impossible(&self) -> Error {
        Error::new(
            ErrorKind::NotFound,
            "no topic can have this name: an id has 3 to 255 letters, digits and - _ . ~ + %, begins with a letter \
             and not with goog; a full name is projects/PROJECT/topics/ID",
        )
        .with("topic", &self.0)
    }
}

/// <https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names>
fn is_topic_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+%".contains(&byte);
    (3..=255).contains(&id.len())
        && id.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && id.bytes().all(allowed)
        && !id.starts_with("goog")
}

/// As in `my-project` and, of an organization, `example.com:my-project`. Emulators take others than the service.
pub(crate) fn is_project(project: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !project.is_empty() && project.len() <= 255 && project.bytes().all(allowed)
}

/// The full name of the topic of a message.
///
/// # Errors
/// [`ErrorKind::NotFound`]: other settings may give another topic.
pub(crate) fn route(message: &Message, routing: &Routing<Topic>, project: Option<&str>) -> Result<String> {
    routing.route(message, |topic| Topic::id(topic)).resolve(project)
}

#[cfg(test)]
mod tests {
    use outbox_core::{Scope, Verdict};

    use super::*;

    fn route(routing: &Routing<Topic>, project: Option<&str>, topic: &str) -> Result<String> {
        super::route(&Message::bytes(topic, "").build().unwrap(), routing, project)
    }

    #[test]
    fn an_id_is_in_the_publishers_project_and_a_full_name_in_its_own() {
        let mut routing = Routing::default();
        let shop = Some("shop");
        assert_eq!(route(&routing, shop, "orders").unwrap(), "projects/shop/topics/orders");
        let full = "projects/other/topics/orders";
        assert_eq!(route(&routing, shop, full).unwrap(), full);
        routing.table.insert("mail".to_owned(), Topic::of_project("example.com:post", "mail.out"));
        assert_eq!(route(&routing, shop, "mail").unwrap(), "projects/example.com:post/topics/mail.out");
    }

    #[test]
    fn what_no_topic_can_be_called_is_told_and_may_be_mended_by_settings() {
        let routing = Routing::default();
        let long = "x".repeat(256);
        let wrong = [
            "ab",
            "1abc",
            "google-orders",
            "a b c",
            "orders/eu",
            "projects/shop",
            "projects//topics/abc",
            &long,
        ];
        for topic in wrong {
            let error = route(&routing, Some("shop"), topic).unwrap_err();
            assert_eq!((error.kind(), error.verdict()), (ErrorKind::NotFound, Verdict::Retry), "{topic}");
            assert_eq!(error.scope(), Scope::Message);
        }
        let error = route(&routing, None, "orders").unwrap_err();
        assert!(error.to_string().contains("set the publisher's project"), "{error}");
    }
}
