//! The store and the publisher in memory keep every promise, also behind an `Arc<dyn …>`.

mod support;

use std::sync::Arc;

use outbox_core::{Publisher, Store};

mod store {
    use super::*;
    use support::MemoryHarness;

    outbox_conformance::store_tests!(MemoryHarness::plain());
}

mod store_behind_arc {
    use super::*;
    use support::MemoryHarness;

    outbox_conformance::store_tests!(MemoryHarness::new(Arc::new(|| Box::new(|store| {
        let inner: Arc<dyn Store> = Arc::new(store);
        // An `Arc` is a store itself, and passes every call on.
        Arc::new(inner)
    }))));
}

mod publisher {
    use super::*;
    use support::PublisherMemoryHarness;

    outbox_conformance::publisher_tests!(PublisherMemoryHarness::plain());
}

mod publisher_behind_arc {
    use super::*;
    use support::PublisherMemoryHarness;

    outbox_conformance::publisher_tests!(PublisherMemoryHarness::new(Arc::new(|| Box::new(|publisher| {
        let inner: Arc<dyn Publisher> = Arc::new(publisher);
        Arc::new(inner)
    }))));
}

mod publisher_without_order {
    use super::*;
    use support::PublisherMemoryHarness;

    outbox_conformance::publisher_tests!({
        let mut harness = PublisherMemoryHarness::plain();
        harness.capabilities = harness.capabilities.ordered_batches(false).max_batch_messages(30);
        harness
            .not_applicable
            .extend(["publishing::order_is_kept_within_a_batch", "rejecting::a_key_stops_at_its_failure"]);
        harness
    });
}
