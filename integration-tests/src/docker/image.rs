//! An image that a test builds.

use std::fs;
use std::path::Path;

use super::{Docker, fresh_name};
use crate::scratch::{Record, Scratch};

/// An image that is removed when dropped, or otherwise when the test process ends.
#[derive(Debug)]
pub struct Image {
    docker: Docker,
    name: String,
    /// Emptied only by `drop`.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// Builds an image of a Dockerfile and the files that it copies, each with its name in the build context.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn build(&self, dockerfile: &str, files: &[(&str, &Path)]) -> Image {
        let name = fresh_name();
        let scratch = Scratch::new("image").expect("a folder");
        let record = scratch.record_image(&name).expect("a record of the image");
        let context = scratch.path().join("context");
        fs::create_dir(&context).expect("a folder for the build context");
        fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
        for (place, file) in files {
            fs::copy(file, context.join(place))
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", file.display()));
        }
        let folder = context.to_str().expect("temporary folders have names in UTF-8");
        self.run(&["build", "--quiet", "--force-rm", "--tag", &name, folder]);
        let _ = fs::remove_dir_all(context);
        Image { docker: self.clone(), name, record: Some((record, scratch)) }
    }
}

impl Image {
    /// The name of the image.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let removed = self.docker.try_run(&["rmi", "--force", &self.name]).is_ok();
        if let Some((record, scratch)) = self.record.take()
            && !removed
        {
            scratch.leave(record);
        }
    }
}
