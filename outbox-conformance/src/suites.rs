//! The lists of cases, each with its promise: the one place where a case gets its name.

use crate::case::{Case, InboxCase, PublisherCase, StoreCase};
use crate::{inbox, publisher, store};

/// Every case for stores.
pub fn store_suite() -> Vec<StoreCase> {
    crate::__store_cases!(list store)
}

/// Every case for inboxes.
pub fn inbox_suite() -> Vec<InboxCase> {
    crate::__inbox_cases!(list inbox)
}

/// Every case for publishers.
pub fn publisher_suite() -> Vec<PublisherCase> {
    crate::__publisher_cases!(list publisher)
}

/// Makes every case for stores a test of its own, in modules named after the groups of cases.
///
/// The argument is an expression that gives a value implementing
/// [`StoreHarness`](crate::StoreHarness); it is evaluated in each test. Use the macro once per module.
#[macro_export]
macro_rules! store_tests {
    ($harness:expr) => {
        $crate::__store_cases!(tests store_test, $harness);
    };
}

/// Makes every case about enqueueing a test of its own: the first group of
/// [`store_tests!`](crate::store_tests), for a crate that enqueues and has no store.
///
/// The argument is an expression that gives a value implementing [`StoreHarness`](crate::StoreHarness); it is
/// evaluated in each test. Its store reads what the crate under test has enqueued. Use the macro once per
/// module.
#[macro_export]
macro_rules! enqueueing_tests {
    ($harness:expr) => {
        $crate::__store_cases!(first_group store_test, $harness);
    };
}

/// Makes every case for inboxes a test of its own, in modules named after the groups of cases.
///
/// The argument is an expression that gives a value implementing
/// [`InboxHarness`](crate::InboxHarness); it is evaluated in each test. Use the macro once per module.
#[macro_export]
macro_rules! inbox_tests {
    ($harness:expr) => {
        $crate::__inbox_cases!(tests inbox_test, $harness);
    };
}

/// Makes every case for publishers a test of its own, in modules named after the groups of cases.
///
/// The argument is an expression that gives a value implementing
/// [`PublisherHarness`](crate::PublisherHarness); it is evaluated in each test. Use the macro once per
/// module.
#[macro_export]
macro_rules! publisher_tests {
    ($harness:expr) => {
        $crate::__publisher_cases!(tests publisher_test, $harness);
    };
}

/// Turns a list of cases into a vector or into a module of tests per group.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    (list $suite:ident; $($group:ident { $($name:ident = $promise:literal;)* })*) => {
        vec![$($(
            Case::new(
                concat!(stringify!($group), "::", stringify!($name)),
                $promise,
                |fixture| Box::pin($suite::$group::$name(fixture)),
            ),
        )*)*]
    };
    (first_group $test:ident, $harness:expr; $group:ident $cases:tt $($others:tt)*) => {
        $crate::__cases! { tests $test, $harness; $group $cases }
    };
    (tests $test:ident, $harness:expr; $($group:ident { $($name:ident = $promise:literal;)* })*) => {
        $(
            mod $group {
                #[allow(unused_imports)]
                use super::*;
                $(
                    #[test]
                    fn $name() {
                        $crate::$test(&$harness, concat!(stringify!($group), "::", stringify!($name)));
                    }
                )*
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_cases {
    ($($mode:tt)*) => {
        $crate::__cases! { $($mode)*;
            // The first group; see `enqueueing_tests!`.
            enqueueing {
                committed_messages_exist = "A message exists once its transaction has committed, and not before.";
                rolled_back_messages_do_not_exist = "A message of a transaction that is rolled back never exists.";
                abandoned_transactions_leave_nothing = "A message of a transaction that is dropped never exists.";
                a_transaction_is_all_or_nothing = "The messages of one transaction appear together.";
                every_field_survives = "Every field of a message is read as it was enqueued.";
                extreme_values_survive = "Empty, binary, large and unusual values are read as they were enqueued.";
                positions_grow_in_enqueue_order = "Positions grow in the order of enqueueing and are unique.";
                rows_know_their_age = "A row contains the time at which it was enqueued, by the database's clock.";
                a_key_stays_in_its_partition = "Messages with the same key are in the same partition.";
                messages_spread_over_partitions = "Keys, and messages without a key, spread over all partitions.";
            }
            reading {
                each_ready_row_comes_once = "A ready row is returned exactly once.";
                rows_of_a_key_come_in_position_order = "The rows of one key come in position order.";
                late_commits_are_delivered = "A row that appears below positions already returned is returned too.";
                late_commits_come_before_later_rows_of_their_key =
                    "A late row comes before any row of its key that was enqueued after it was committed.";
                open_transactions_hold_up_nobody = "An open transaction delays only its own messages.";
                random_interleavings_lose_nothing =
                    "However transactions overlap, each committed row is returned once and in the order of its key.";
                the_limit_of_messages_is_kept = "A fetch returns no more rows than requested, except one per partition.";
                the_limit_of_bytes_is_kept =
                    "A fetch returns no more bytes than requested, except one row per partition, and always makes progress.";
                more_is_honest = "A fetch reports that there are more rows while many remain, and at the end that there are not.";
                dropped_fetches_lose_nothing = "After a dropped fetch, the next one returns the same rows.";
                broken_connections_lose_nothing = "After an error the next fetch returns what the failed one would have.";
                assigning_again_starts_from_the_beginning =
                    "A partition that is assigned again is read again from its lowest position.";
                only_assigned_partitions_are_read = "A reader returns rows of its partitions only.";
                readers_are_independent = "A row that one reader has returned is still returned by another.";
                reading_and_settling_at_once_loses_nothing =
                    "Concurrent enqueueing, reading and settling loses and repeats no row.";
            }
            due {
                scheduled_messages_wait_for_their_time =
                    "A scheduled message is returned when it is due, not before, and once.";
                scheduled_messages_hold_up_nobody = "Later messages of its key do not wait for a scheduled one.";
                retries_wait_for_their_time = "A retried message is returned again when it is due, with its attempts.";
                rows_in_flight_do_not_come_again =
                    "A due row is returned whenever it is due, except while the relay reports it as in flight.";
                the_next_due_time_is_told = "A fetch returns the time until the next scheduled or retrying row is due.";
                due_rows_keep_the_limits = "Due rows that do not fit into one fetch are returned by the next ones.";
                past_delivery_times_are_now = "A message whose delivery time has passed is returned immediately.";
                a_due_row_waits_for_ready_rows_in_front =
                    "A due row does not come before a ready row of its key that is in front of it and was not read yet.";
            }
            settling {
                delivered_messages_are_gone = "A delivered message is gone for every reader.";
                settling_twice_does_no_harm = "A repeated settle call changes nothing.";
                attempts_are_absolute = "The stored attempt count is the given one, however often it is given.";
                anybody_may_settle_delivered = "Delivered takes effect regardless of the partition's owner.";
                strangers_settle_nothing_else =
                    "Retry, held and dead of a relay that does not own the partition have no effect.";
                former_owners_settle_nothing_else =
                    "Retry, held and dead of a relay whose partition was taken over have no effect.";
                large_batches_are_settled = "One call settles thousands of rows, of every kind.";
                unknown_rows_are_ignored = "Settling a row that does not exist changes nothing and is not an error.";
                kept_messages_are_purged_by_age =
                    "Delivered messages that are kept are purged by age, up to the requested number.";
                messages_are_kept_only_if_asked = "Delivered messages leave nothing to purge unless they are kept.";
            }
            blocking {
                a_retrying_message_blocks_its_key = "Ready rows behind a retrying message are returned as blocked.";
                other_messages_are_not_blocked =
                    "Other keys, messages without a key and earlier messages are not blocked.";
                keys_are_told_apart_exactly = "Keys that differ in case, accents or spaces only are different keys.";
                held_messages_follow_in_order =
                    "Held messages are returned in order, after the message in front of them is delivered and not before.";
                many_held_messages_all_follow = "However many messages are held, all of them are returned, in order.";
                holding_behind_nothing_is_due_at_once = "A message held without a blocking message is due immediately.";
                holding_behind_nothing_keeps_the_order =
                    "Among messages held without a blocking message, in any calls and order, the first is returned first.";
                a_parked_key_goes_on_in_order =
                    "Messages that are held while nothing in front of them fails come in order, each behind all in front of it.";
                few_messages_of_a_key_are_due_at_a_time =
                    "However many messages of a key are held, at most 500 of them are due at a time.";
                holding_a_due_message_holds_what_is_due_behind_it =
                    "Due messages behind a message that is held again wait for it.";
                holding_and_delivering_in_one_call_releases =
                    "A message held in the call that delivers the one in front of it is released by it.";
                a_released_message_that_fails_blocks_again =
                    "When a released message fails, the messages behind it wait again.";
                a_failure_behind_a_failure_waits =
                    "A message that fails behind a retrying one of its key waits until that one is delivered.";
                a_retry_can_leave_its_key_free = "A retry that does not block does not affect the later messages of its key.";
                a_retry_can_set_its_key_free =
                    "When a blocking message is retried without blocking, its held messages are released, at the latest by a repair.";
                a_dead_message_can_block_its_key = "Messages behind a dead letter that blocks its key are not returned.";
                a_dead_message_can_free_its_key = "When a message becomes a dead letter without blocking, its held messages are released.";
                due_rows_behind_a_blocker_are_blocked =
                    "A scheduled message that becomes due behind a retrying one is returned as blocked.";
                a_late_row_in_front_is_not_blocked = "A row that appears in front of the blocking row of its key is not blocked.";
                blocks_outlive_the_relay = "Another relay with a new reader finds keys blocked as they were.";
            }
            identifying {
                settling_leaves_another_message_alone =
                    "Whatever is settled of a message changes nothing of another one that has its position by then.";
                both_messages_of_a_position_are_settled =
                    "Settled in one call, each of two messages of one position has its own outcome.";
                dead_letters_of_one_position_are_kept_apart =
                    "Two dead letters of one position are listed, redriven and discarded each by itself.";
                redriving_leaves_another_message_alone =
                    "A redriven message whose position is taken comes as well, before the later ones of its key.";
            }
            dead_letters {
                dead_messages_are_listed = "A dead letter is listed with its message, attempts, error and times.";
                listing_is_filtered = "Each condition of a filter selects the matching dead letters.";
                listing_is_paged = "Dead letters are listed in position order, page by page.";
                redriven_messages_come_again =
                    "A redriven message is due immediately, at its old position, with its attempt count reset.";
                redriving_keeps_the_order = "A redriven message that blocked its key is returned before the later ones.";
                redriving_behind_a_dead_letter_waits =
                    "A redriven message waits until no earlier dead letter blocks its key.";
                redriving_selects = "Redriving takes the first matching dead letters, up to the requested number.";
                discarded_messages_free_their_key = "A discarded dead letter is deleted, and its key is released.";
                malformed_rows_are_told = "An unreadable row is returned as malformed, with a helpful reason.";
                malformed_rows_can_die = "A malformed row can become a dead letter, be redriven and be discarded like any other.";
                without_administration_there_is_none =
                    "A store declares whether it can manage dead letters, and this is true.";
            }
            repairing {
                a_deleted_retry_is_repaired = "A repair releases messages held behind a row that was deleted by hand.";
                a_deleted_dead_letter_is_repaired =
                    "A repair releases messages held behind a dead letter that was deleted by hand.";
                nothing_healthy_is_repaired = "A repair does not release messages that are held correctly.";
                repairs_are_bounded = "A repair makes no more rows due than requested, and later repairs make the rest due.";
            }
            leasing {
                one_relay_owns_everything = "A single relay owns every partition.";
                two_relays_share = "When a second relay joins, the first releases half of the partitions, and the second takes them.";
                shares_differ_by_one_at_most = "The shares of all live relays add up to all partitions, evenly.";
                live_leases_are_not_taken = "A partition with a live lease cannot be taken.";
                heartbeats_extend_leases = "A relay that keeps sending heartbeats keeps its partitions.";
                released_partitions_are_free_at_once = "Released partitions can be taken immediately, by other relays only within their share.";
                leaving_frees_everything = "When a relay leaves, the shares of the others grow immediately.";
                expired_leases_are_taken = "The partitions of a dead relay are taken when its lease has ended, not before.";
                strangers_release_nothing = "Releasing partitions that the relay does not hold changes nothing.";
                concurrent_heartbeats_never_share_a_partition =
                    "However heartbeats overlap, no partition ever has two owners.";
                relays_come_and_go = "With relays joining, leaving and dying at random, ownership stays exclusive and complete.";
            }
            operating {
                stats_count = "Stats count undelivered messages and dead letters.";
                stats_stop_counting = "Stats stop counting at the limit and report this.";
                lag_is_the_age_of_the_oldest = "The lag is the age of the lowest undelivered message.";
                wakeups_follow_commits = "While a relay sleeps, a commit sends a hint.";
                wakeups_follow_every_handle = "A hint reaches relays on other connections.";
                waiting_for_hints_can_be_dropped = "Dropping a wait does not lose a hint that arrives later.";
                an_outbox_is_drained_when_all_is_delivered = "Waiting until drained ends when the last message is delivered.";
                names_are_stable = "A store has a short name for metrics, the same for every handle.";
            }
            inspecting {
                the_group_is_shown_as_it_is = "The diagnostics show the live relays and the owner of each partition.";
                waiting_messages_are_shown_with_their_state =
                    "Undelivered messages are shown in position order, with the reason why they wait.";
                waiting_messages_are_shown_page_by_page = "Page by page, each undelivered message is shown once.";
                unreadable_messages_are_shown_as_far_as_they_go = "The readable fields of an unreadable row are shown.";
                open_transactions_are_not_shown = "Uncommitted messages are not shown, and the call does not wait for them.";
                looking_changes_nothing = "The diagnostics change nothing.";
                the_clock_is_the_database_s = "The clock that is shown is the one that the outbox uses.";
                a_new_outbox_has_no_problem = "A new outbox has no problem, and every finding has a text.";
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __inbox_cases {
    ($($mode:tt)*) => {
        $crate::__cases! { $($mode)*;
            accepting {
                a_message_is_new_once = "A message is new to a consumer once.";
                what_is_rolled_back_is_new_again = "A message accepted in a transaction that did not commit is new again.";
                consumers_do_not_disturb_each_other = "Each consumer sees each message, whatever the consumers' names are.";
                impossible_names_are_refused = "A consumer name that a database cannot store is refused.";
                a_repeat_leaves_the_transaction_usable = "A transaction continues after a repeat, and keeps the messages it accepted.";
                who_comes_second_waits_for_the_first =
                    "The second of two transactions with one message waits. The message is new to it only if the first rolls back.";
                of_those_who_race_one_wins = "However many transactions race for a message, exactly one accepts it.";
            }
            forgetting {
                purging_is_bounded = "A purge deletes no more than requested, and repeated purges delete everything.";
                young_entries_are_kept = "A purge keeps entries that are younger than requested.";
                what_is_purged_is_new_again = "A message whose entry was purged is new again.";
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __publisher_cases {
    ($($mode:tt)*) => {
        $crate::__cases! { $($mode)*;
            publishing {
                one_outcome_per_message = "A call answers with one outcome per message.";
                confirmed_messages_arrive = "A confirmed message reaches the consumer, with its id and content.";
                unusual_content_arrives = "Empty, binary, large and unusual content arrives unchanged.";
                an_empty_batch_is_fine = "A call without messages returns immediately without outcomes.";
                a_full_batch_is_taken = "A call accepts as many messages as the capabilities declare.";
                capabilities_make_sense = "Capabilities allow progress and do not change.";
                order_is_kept_within_a_batch = "With ordered batches, a key's messages arrive in the order of the batch.";
                order_is_kept_across_calls = "Messages of consecutive calls arrive in that order.";
                calls_may_overlap = "Concurrent calls do not disturb each other.";
                duplicates_are_published_again = "A message that is published again arrives again, or once, with the same id.";
                closing_is_clean = "After closing, a call either works or fails cleanly.";
            }
            rejecting {
                unroutable_messages_fail = "A message that the broker cannot route fails, and only it.";
                unroutable_messages_fail_among_many = "Among many, exactly the unroutable messages fail.";
                oversized_messages_fail = "A message that is too large fails permanently, and only it.";
                invalid_options_fail = "A message with invalid options fails permanently, and only it.";
                each_failure_has_its_own_reason =
                    "In a batch with failures of several kinds, each message has its own outcome.";
                a_key_stops_at_its_failure =
                    "With ordered batches, the messages of a key behind a failed one are not sent.";
            }
            failing {
                a_cut_is_survived = "After a cut connection, later calls work without help.";
                a_cut_is_told_truly =
                    "Around a cut, confirmed messages have arrived, and messages reported as failed have not.";
                a_broker_that_is_down_is_reported =
                    "While the broker is down, calls fail soon, as a failure of the broker and not of a message.";
                an_outage_is_survived = "After an outage, later calls work without help.";
                a_stalled_broker_is_not_confirmed = "A broker that does not answer has confirmed nothing.";
                dropped_calls_do_no_harm = "Dropping a call does not disturb later ones.";
                dropped_calls_send_nothing_later = "A dropped call starts no further request.";
            }
            answering {
                a_lost_answer_is_told_truly =
                    "Without an answer nothing is confirmed, and messages that may have arrived are not reported as failed.";
                throttling_is_told_as_such =
                    "A throttling broker is reported as such, as a failure of the broker and not of a message.";
                a_partial_failure_is_told_apart =
                    "If the broker accepts a part of a call, exactly that part is confirmed, and the rest may be retried.";
                order_survives_partial_failures =
                    "The messages of a key arrive in order, however often some messages of a call are refused.";
            }
        }
    };
}
