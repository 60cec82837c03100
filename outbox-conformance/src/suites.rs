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

/// Makes every case about enqueueing a test of its own: the first group of [`store_tests!`](crate::store_tests), for a crate
/// that enqueues and has no store.
///
/// The argument is an expression that gives a value implementing [`StoreHarness`](crate::StoreHarness); it is evaluated in each
/// test. Its store reads what the crate under test has enqueued. Use the macro once per module.
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
/// [`PublisherHarness`](crate::PublisherHarness); it is evaluated in each test. Use the macro once per module.
#[macro_export]
macro_rules! publisher_tests {
    ($harness:expr) => {
        $crate::__publisher_cases!(tests publisher_test, $harness);
    };
}

/// Makes of a list of cases either a vector or a module of tests per group.
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
                rows_know_their_age = "A row tells when it was enqueued, by the database's clock.";
                a_key_stays_in_its_partition = "Messages with the same key are in the same partition.";
                messages_spread_over_partitions = "Keys, and messages without a key, spread over all partitions.";
            }
            reading {
                each_ready_row_comes_once = "A ready row is returned exactly once.";
                rows_of_a_key_come_in_position_order = "The rows of one key come in position order.";
                late_commits_are_delivered = "A row that appears below positions already returned is returned.";
                late_commits_come_before_later_rows_of_their_key =
                    "A late row comes before any row of its key that was enqueued after it was committed.";
                open_transactions_hold_up_nobody = "An open transaction delays no message but its own.";
                random_interleavings_lose_nothing =
                    "However transactions overlap, each committed row comes once and no row overtakes its key.";
                the_limit_of_messages_is_kept = "A fetch brings no more rows than asked for, one per partition aside.";
                the_limit_of_bytes_is_kept =
                    "A fetch brings no more bytes than asked for, one row per partition aside, and always gets on.";
                more_is_honest = "While much is left a fetch says that there is more, and in the end that there is not.";
                dropped_fetches_lose_nothing = "A fetch that is dropped takes nothing away from the next one.";
                broken_connections_lose_nothing = "After an error the next fetch returns what the failed one would have.";
                assigning_again_starts_from_the_beginning =
                    "A partition that is assigned again is read again from its lowest position.";
                only_assigned_partitions_are_read = "A reader returns rows of its partitions only.";
                readers_are_independent = "What one reader has returned, another one still returns.";
                reading_and_settling_at_once_loses_nothing =
                    "Enqueueing, reading and settling at the same time loses and repeats nothing.";
            }
            due {
                scheduled_messages_wait_for_their_time =
                    "A scheduled message comes when its time has come, not before, and once.";
                scheduled_messages_hold_up_nobody = "Later messages of its key do not wait for a scheduled one.";
                retries_wait_for_their_time = "A retried message comes again after its time, with its attempts.";
                rows_in_flight_do_not_come_again =
                    "A due row comes whenever it is due, except while it is said to be in flight.";
                the_next_due_time_is_told = "A fetch tells how long until the next scheduled or retrying row is due.";
                due_rows_keep_the_limits = "Due rows that do not fit into one fetch come with the next ones.";
                past_delivery_times_are_now = "A message whose delivery time has passed comes at once.";
            }
            settling {
                delivered_messages_are_gone = "A delivered message is gone for every reader.";
                settling_twice_does_no_harm = "A repeated settle call changes nothing.";
                attempts_are_absolute = "The stored count of attempts is the one given, however often it is given.";
                anybody_may_settle_delivered = "Delivered takes effect whoever owns the partition.";
                strangers_settle_nothing_else =
                    "Retry, held and dead of a relay that does not own the partition have no effect.";
                former_owners_settle_nothing_else =
                    "Retry, held and dead of a relay whose partition was taken over have no effect.";
                large_batches_are_settled = "One call settles thousands of rows, of every kind.";
                unknown_rows_are_ignored = "Settling a row that does not exist changes nothing and is no error.";
                kept_messages_are_purged_by_age =
                    "Delivered messages that are kept are purged by age, at most as many as asked for.";
                messages_are_kept_only_if_asked = "Delivered messages leave nothing to purge unless they are to be kept.";
            }
            blocking {
                a_retrying_message_blocks_its_key = "Ready rows behind a retrying message come as blocked.";
                other_messages_are_not_blocked =
                    "Other keys, messages without a key and earlier messages are not blocked.";
                keys_are_told_apart_exactly = "Keys that differ in case, accents or spaces only are different keys.";
                held_messages_follow_in_order =
                    "Held messages come in order, when the one in front of them has been delivered and not before.";
                many_held_messages_all_follow = "However many messages are held, all of them come, in order.";
                holding_behind_nothing_is_due_at_once = "A message held behind nothing is due at once.";
                holding_behind_nothing_keeps_the_order =
                    "Of messages that are held behind nothing, in whatever calls and order, the first comes first.";
                holding_a_due_message_holds_what_is_due_behind_it =
                    "What is due behind a message that is held once more waits for it.";
                holding_and_delivering_in_one_call_releases =
                    "A message held in the call that delivers the one in front of it is released by it.";
                a_released_message_that_fails_blocks_again =
                    "When a released message fails, those behind it wait again.";
                a_failure_behind_a_failure_waits =
                    "A message that fails behind a retrying one of its key does not come before that is delivered.";
                a_retry_can_leave_its_key_free = "A retry that does not block leaves the later messages of its key alone.";
                a_retry_can_set_its_key_free =
                    "When a blocking message is retried without blocking, its held messages come, after a repair at the latest.";
                a_dead_message_can_block_its_key = "Messages behind a dead letter that blocks its key do not come.";
                a_dead_message_can_free_its_key = "When a message dies without blocking, its held messages come.";
                due_rows_behind_a_blocker_are_blocked =
                    "A scheduled message that comes due behind a retrying one comes as blocked.";
                a_late_row_in_front_is_not_blocked = "A row that appears in front of what blocks its key is not blocked.";
                blocks_outlive_the_relay = "Another relay with a new reader finds keys blocked as they were.";
            }
            dead_letters {
                dead_messages_are_listed = "A dead letter is listed with its message, attempts, error and times.";
                listing_is_filtered = "Each condition of a filter selects what it says.";
                listing_is_paged = "Dead letters are listed in position order, page by page.";
                redriven_messages_come_again =
                    "A redriven message comes at once, at its old position, with its attempts counted anew.";
                redriving_keeps_the_order = "A redriven message that blocked its key comes before the later ones.";
                redriving_behind_a_dead_letter_waits =
                    "A redriven message comes only after an earlier dead letter that blocks its key is out of the way.";
                redriving_selects = "Redriving takes the first ones that match, as many as asked for.";
                discarded_messages_free_their_key = "A discarded dead letter is gone, and its key goes on.";
                malformed_rows_are_told = "A row that nobody can read comes as malformed, with a reason that helps.";
                malformed_rows_can_die = "A malformed row moves to the dead letters, back and away like any other.";
                without_administration_there_is_none =
                    "A store without administration of dead letters says so, and one that has it offers it.";
            }
            repairing {
                a_deleted_retry_is_repaired = "Messages held behind a row that was deleted by hand come after a repair.";
                a_deleted_dead_letter_is_repaired =
                    "Messages held behind a dead letter that was deleted by hand come after a repair.";
                nothing_healthy_is_repaired = "A repair leaves alone what is rightly held.";
                repairs_are_bounded = "A repair makes no more rows due than asked for, and later ones do the rest.";
            }
            leasing {
                one_relay_owns_everything = "A relay alone owns every partition.";
                two_relays_share = "When a second relay joins, the first gives half away, and the second takes it.";
                shares_differ_by_one_at_most = "The shares of all live relays add up to all partitions, evenly.";
                live_leases_are_not_taken = "Nobody takes a partition from a live lease.";
                heartbeats_extend_leases = "A relay that goes on beating keeps its partitions.";
                released_partitions_are_free_at_once = "Released partitions can be taken at once, by others only as given.";
                leaving_frees_everything = "When a relay leaves, the others' shares grow at once.";
                expired_leases_are_taken = "The partitions of a relay that died are taken when its lease has ended, not before.";
                strangers_release_nothing = "Releasing what one does not hold changes nothing.";
                concurrent_heartbeats_never_share_a_partition =
                    "However heartbeats overlap, no partition ever has two owners.";
                relays_come_and_go = "With relays joining, leaving and dying at random, ownership stays exclusive and complete.";
            }
            operating {
                stats_count = "Stats count undelivered messages and dead letters.";
                stats_stop_counting = "Stats stop counting at the limit and say so.";
                lag_is_the_age_of_the_oldest = "The lag is the age of the lowest undelivered message.";
                wakeups_follow_commits = "While a relay sleeps, a commit gives a hint.";
                wakeups_follow_every_handle = "A hint reaches relays on other connections.";
                waiting_for_hints_can_be_dropped = "Dropping a wait loses no hint that arrives later.";
                an_outbox_is_drained_when_all_is_delivered = "Waiting until drained ends when the last message is delivered.";
                names_are_stable = "A store has a short name for metrics, the same for every handle.";
            }
            inspecting {
                the_group_is_shown_as_it_is = "Whoever looks sees the live relays and who holds which partition.";
                waiting_messages_are_shown_with_their_state =
                    "Undelivered messages are shown in position order, with what they wait for.";
                waiting_messages_are_shown_page_by_page = "Page by page, each undelivered message is shown once.";
                unreadable_messages_are_shown_as_far_as_they_go = "Of an unreadable row, what can be read is shown.";
                open_transactions_are_not_shown = "What is not committed is not shown, and nobody waits for it.";
                looking_changes_nothing = "Looking changes nothing.";
                the_clock_is_the_database_s = "The clock that is shown is the one that the outbox goes by.";
                a_new_outbox_has_no_problem = "Of a new outbox no problem is told, and nothing is told without words.";
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
                what_is_rolled_back_is_new_again = "What a transaction accepted that did not commit is new again.";
                consumers_do_not_disturb_each_other = "Each consumer sees each message, whatever the consumers are called.";
                impossible_names_are_refused = "A name that no database could keep is refused.";
                a_repeat_leaves_the_transaction_usable = "A transaction goes on after a repeat, and keeps what it accepted.";
                who_comes_second_waits_for_the_first =
                    "Of two transactions with one message the second waits, and it is new to it only if the first is rolled back.";
                of_those_who_race_one_wins = "However many race for a message, exactly one accepts it.";
            }
            forgetting {
                purging_is_bounded = "A purge deletes no more than asked for, and all in the end.";
                young_entries_are_kept = "A purge leaves what is younger than asked for.";
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
                confirmed_messages_arrive = "What is confirmed is at the consumer, with its id and content.";
                unusual_content_arrives = "Empty, binary, large and unusual content arrives as it was.";
                an_empty_batch_is_fine = "A call without messages answers at once with nothing.";
                a_full_batch_is_taken = "A call takes as many messages as the capabilities say.";
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
                oversized_messages_fail = "A message that is too large fails for good, and only it.";
                invalid_options_fail = "A message with options that cannot be understood fails for good, and only it.";
                each_failure_has_its_own_reason =
                    "Of a batch with failures of several kinds, each message has the outcome that is its own.";
                a_key_stops_at_its_failure =
                    "With ordered batches, the messages of a key behind a failed one are not sent.";
            }
            failing {
                a_cut_is_survived = "After a cut connection, later calls work without help.";
                a_cut_is_told_truly =
                    "What is confirmed around a cut has arrived, and what is said to have failed surely has not.";
                a_broker_that_is_down_is_reported =
                    "While the broker is down, calls fail soon, as a failure of the broker and not of a message.";
                an_outage_is_survived = "After an outage, later calls work without help.";
                a_stalled_broker_is_not_confirmed = "A broker that does not answer has confirmed nothing.";
                dropped_calls_do_no_harm = "Dropping a call disturbs none of the later ones.";
                dropped_calls_send_nothing_later = "A call that was dropped does not begin to send afterwards.";
            }
            answering {
                a_lost_answer_is_told_truly =
                    "Without an answer nothing is confirmed, and what may have arrived is not said to have failed.";
                throttling_is_told_as_such =
                    "A broker that asks for less is told as one, as a failure of the broker and not of a message.";
                a_partial_failure_is_told_apart =
                    "Of a call of which the broker takes a part, just that part is confirmed, and the rest may be tried again.";
                order_survives_partial_failures =
                    "A key's messages arrive in their order, however often some of a call are refused.";
            }
        }
    };
}
