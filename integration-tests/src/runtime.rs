//! The harness's own runtime.
//!
//! Every test has a separate runtime, which ends with it and may have a paused clock. Shared work of several
//! tests, such as the start of a common server or a proxy, runs here instead.

use std::future::Future;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("test-harness")
        .enable_all()
        .build()
        .expect("the harness needs a runtime")
});

/// Starts a task which continues when the test that started it has ended.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    RUNTIME.spawn(future)
}

/// Runs a future on the harness's runtime and waits for it. A panic of the future continues in the caller.
pub(crate) async fn run<F>(future: F) -> F::Output
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match spawn(future).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the harness's runtime dropped a task: {error}"),
        },
    }
}
