//! The contract of [`RegistryBackend`] as a crate: a test a promise.
//!
//! A backend's tests are one line, [`backend_conformance!`], after a [`Fixture`] that says how its store is
//! had. Each case of [`cases`] becomes a test with its own name and its own empty registry, so that cases
//! run in parallel. `docs/backends.md` shows the whole way to a new backend.
//!
//! | module | noun |
//! |---|---|
//! | [`cases`] | the promises, a file a call |
//! | `daemon` | what the cases act with: a daemon with its own handle, and a watcher |
//! | `in_time` | how long cases wait for what time does |

#[allow(clippy::unwrap_used, missing_docs, reason = "a case is a test, and its name is a sentence")]
pub mod cases;
#[allow(clippy::unwrap_used, reason = "only cases use it")]
mod daemon;
mod in_time;

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{Instance, RegistryBackend};

/// The lease TTL of cases that let no time pass: no machine is so slow that a lease runs out under them.
pub const LASTING: Duration = Duration::from_secs(300);

/// The lease TTL of the cases that wait for its end.
pub const SHORT: Duration = Duration::from_millis(1200);

/// How long a case may take in all, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// One empty registry, and what befalls its store.
///
/// Made for one test, and seen by no other: where tests share a server, each has a cluster of its own.
#[allow(async_fn_in_trait, reason = "cases await it in place")]
pub trait Fixture {
    /// A handle for `instance`, as its daemon opens it: all handles of a fixture see the same registrations. One run
    /// of a daemon may open several, as one does that is replaced by a new program.
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend>;

    /// Lets at least this much time pass for the store, and no more than it must: a clock that is moved,
    /// or a wait.
    async fn pass(&self, time: Duration);

    /// Loses all that was ever written to the registry, its counters too, as a store does that restarts
    /// empty. Handles stay usable.
    async fn lose_everything(&self);
}

/// Makes a test of each case, in modules named after the calls.
///
/// Its argument is the path of `async fn(lease_ttl: Duration) -> impl Fixture`. The TTL is [`SHORT`] or
/// [`LASTING`]; cases go by what the backend then [promises](RegistryBackend::promises). A backend that promises no
/// `lease_ttl` says `backend_conformance!(without leases: path)`, and one in whose store a name may have several holders
/// `backend_conformance!(without exclusion: path)`.
#[macro_export]
macro_rules! backend_conformance {
    ($fresh:path) => {
        $crate::backend_conformance!(without leases: $fresh);
        $crate::__conformance_of_time!($fresh);
        $crate::__conformance_module!($fresh, SHORT, silence:
            a_holder_that_fell_silent_loses_its_name_before_its_lease_is_over
            a_holder_that_renews_keeps_its_name
            an_old_owner_that_renews_or_releases_late_leaves_the_new_one_alone
        );
    };
    (without leases: $fresh:path) => {
        $crate::__conformance_of_all!($fresh);
        $crate::__conformance_module!($fresh, LASTING, exclusion:
            a_name_of_a_live_daemon_is_refused_and_nothing_changes
            the_names_of_a_retired_daemon_are_free_at_once
            of_many_daemons_that_claim_one_name_at_once_one_gets_it
            a_claim_that_arrives_late_leaves_a_newer_one_alone
            a_daemon_that_is_refused_is_listed
            a_renewal_never_overwrites_another_owner
            a_renewal_replaces_what_an_earlier_run_that_is_over_left_behind
            a_renewal_says_what_became_of_which_lease
        );
    };
    (without exclusion: $fresh:path) => {
        $crate::__conformance_of_all!($fresh);
        $crate::__conformance_of_time!($fresh);
    };
}

/// What every backend promises.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_of_all {
    ($fresh:path) => {
        $crate::__conformance_module!($fresh, LASTING, registering:
            a_fresh_name_is_granted_and_kept_as_it_was_claimed
            a_daemon_replaces_its_own_registration
            the_next_run_of_a_daemon_replaces_what_the_last_one_left
            a_claim_that_is_repeated_gets_the_lease_that_it_has
            a_claim_that_is_sent_twice_at_once_is_granted_once
            one_name_on_two_hosts_is_two_registrations
        );
        $crate::__conformance_module!($fresh, LASTING, creation:
            no_life_of_a_name_has_the_creation_of_another
            a_creation_differs_from_the_one_that_the_claimant_remembers
            a_remembered_offline_creation_is_not_counted_on_from
            after_a_restored_registration_the_next_creation_differs
            an_offline_creation_is_kept_and_not_counted_on_from
            a_late_renewal_of_an_earlier_life_brings_no_creation_back
        );
        $crate::__conformance_module!($fresh, LASTING, renewing:
            a_renewal_restores_the_full_record_after_a_loss
            a_renewal_publishes_a_node_that_was_accepted_without_the_store
            a_renewal_replaces_an_earlier_life_that_the_same_run_left_behind
            a_renewal_that_is_repeated_changes_nothing
            a_thousand_leases_are_renewed_in_one_round
            a_lease_released_while_a_round_is_under_way_is_not_renewed
            what_is_registered_while_a_round_is_under_way_is_kept
        );
        $crate::__conformance_module!($fresh, LASTING, publishing:
            a_node_that_was_accepted_without_the_store_is_published
            publishing_some_does_not_end_the_rest
            publishing_replaces_an_earlier_life_that_the_same_run_left_behind
        );
        $crate::__conformance_module!($fresh, LASTING, releasing:
            a_released_name_is_gone_for_everybody_and_free
            a_release_that_is_repeated_does_nothing
            releasing_a_replaced_lease_leaves_its_successor_alone
        );
        $crate::__conformance_module!($fresh, LASTING, finding:
            nothing_is_found_where_nothing_is_registered
            a_name_is_found_by_its_host_its_alias_and_the_cluster_only
            of_many_no_more_are_found_than_are_wanted_the_askers_own_among_them
            the_host_itself_comes_before_those_that_have_its_name_as_an_alias
            an_alias_of_an_earlier_run_finds_nothing
            hosts_are_compared_without_case
            every_name_that_a_node_may_have_finds_itself_alone
        );
        $crate::__conformance_module!($fresh, LASTING, listing:
            a_list_holds_what_is_in_its_scope
        );
        $crate::__conformance_module!($fresh, LASTING, daemons:
            a_daemon_is_listed_once_it_registered_or_renewed
            daemons_are_listed_within_their_scope
            a_retired_daemon_is_not_listed_and_its_names_stay
            what_changes_of_a_daemon_is_read_after_its_next_renewal
        );
        $crate::__conformance_module!($fresh, LASTING, notes:
            a_note_is_read_by_all_as_it_was_left
            the_last_note_of_a_daemon_stands
            a_note_makes_nobody_count_as_alive
            a_retired_daemon_has_no_note
            a_note_may_be_long
        );
        $crate::__conformance_module!($fresh, LASTING, dropping:
            a_registration_that_was_dropped_can_be_made_again
            a_renewal_that_was_dropped_can_be_made_again
            a_release_that_was_dropped_can_be_made_again
            a_question_that_was_dropped_can_be_asked_again
        );
        $crate::__conformance_module!($fresh, LASTING, watching:
            what_is_registered_moved_and_released_is_told_to_others
            renewals_are_no_changes
        );
    };
}

/// What a backend with leases promises.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_of_time {
    ($fresh:path) => {
        $crate::__conformance_module!($fresh, SHORT, expiry:
            a_registration_runs_out_with_its_ttl
            a_registration_lasts_for_its_ttl
            a_renewal_extends_the_lease
            what_is_found_says_how_long_it_lives_on
            a_name_that_ran_out_gets_a_new_owner_and_a_new_creation
            a_renewal_brings_back_what_ran_out
            a_daemon_that_fell_silent_is_not_listed
            a_daemon_that_renews_nothing_stays_alive_by_renewing
            what_is_published_is_extended_and_its_daemon_alive
            what_a_round_of_renewals_leaves_out_runs_out
            a_note_that_is_not_left_again_runs_out
        );
    };
}

/// One module of [`backend_conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_module {
    ($fresh:path, $ttl:ident, $module:ident: $($case:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the path may be absolute")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::run($fresh($crate::$ttl), $crate::cases::$module::$case);
                }
            )*
        }
    };
}

/// Runs one case to its end.
///
/// # Panics
/// When the case does, or does not end.
#[doc(hidden)]
pub fn run<F: Fixture, Case: Future<Output = ()>>(
    fresh: impl Future<Output = F>,
    case: impl FnOnce(F) -> Case,
) {
    // Two threads, so that what a case does at once may really happen at once.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let whole = async { case(fresh.await).await };
        assert!(tokio::time::timeout(DEADLINE, whole).await.is_ok(), "not over within {DEADLINE:?}");
    });
}
