//! What the publishers to Amazon's services have in common.

use aws_config::{BehaviorVersion, Region, SdkConfig};

use crate::config::Section;

/// Which account, where. Credentials come from where the AWS tools have them, and are never among our settings.
#[derive(Clone, Debug)]
pub(super) struct Account {
    region: Option<String>,
    profile: Option<String>,
    endpoint: Option<String>,
}

/// A configuration without an account, to look into settings with.
pub(super) fn nobody() -> SdkConfig {
    SdkConfig::builder().behavior_version(BehaviorVersion::v2026_01_12()).build()
}

impl Account {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let is_url = |text: &str| {
            ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme) && text.len() > scheme.len())
        };
        Self {
            region: section.any_text("region"),
            profile: section.any_text("profile"),
            endpoint: section.text("endpoint", "a URL such as \"https://host:port\"", is_url),
        }
    }

    pub(super) async fn load(&self) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        loader.load().await
    }

    /// For people.
    pub(super) fn place(&self, service: &str) -> String {
        let region = self.region.as_deref().unwrap_or("of the environment");
        match &self.endpoint {
            Some(endpoint) => format!("{service} at {endpoint}, region {region}"),
            None => format!("{service}, region {region}"),
        }
    }
}
