//! Registries that break a promise fail the case that is meant for it: the suite can fail.

mod in_memory;

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Found, Holdings, HostId, Instance, Lease, Note,
    Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search, Seen,
};
use repmd_backend_conformance::{SHORT, cases, run};
use repmd_backend_memory::{Handle, Memory};

use in_memory::InMemory;

macro_rules! caught {
    ($($test:ident: $defect:ident in $module:ident::$case:ident;)*) => {$(
        #[test]
        fn $test() {
            let case = AssertUnwindSafe(|| run(broken(SHORT, Defect::$defect), cases::$module::$case));
            assert!(catch_unwind(case).is_err(), "{:?} is not noticed", Defect::$defect);
        }
    )*};
}

caught! {
    a_node_stored_without_its_extra: RegisterDropsExtra in
        registering::a_fresh_name_is_granted_and_kept_as_it_was_claimed;
    a_taken_name_that_is_granted: RegisterSteals in
        exclusion::a_name_of_a_live_daemon_is_refused_and_nothing_changes;
    a_refusal_that_names_the_claimant: RefusalNamesTheClaimant in
        exclusion::a_name_of_a_live_daemon_is_refused_and_nothing_changes;
    a_daemon_that_is_refused_its_own_name: RegisterRefusesTheHolder in
        registering::a_daemon_replaces_its_own_registration;
    an_earlier_run_that_refuses_the_next: RegisterRefusesTheNextRun in
        registering::the_next_run_of_a_daemon_replaces_what_the_last_one_left;
    a_retired_daemon_that_keeps_its_names: RetireDoesNothing in
        exclusion::the_names_of_a_retired_daemon_are_free_at_once;
    a_repeated_claim_that_is_refused: RegisterRefusesRepetition in
        registering::a_claim_that_is_repeated_gets_the_lease_that_it_has;
    a_claim_granted_twice: RegisterGrantsRepetitionAnew in
        registering::a_claim_that_is_sent_twice_at_once_is_granted_once;
    one_name_for_a_whole_cluster: RegisterForgetsTheHost in
        registering::one_name_on_two_hosts_is_two_registrations;
    a_race_between_check_and_write: RegisterChecksThenActs in
        exclusion::of_many_daemons_that_claim_one_name_at_once_one_gets_it;
    a_late_claim_that_evicts: LateClaimsEvict in
        exclusion::a_claim_that_arrives_late_leaves_a_newer_one_alone;
    a_creation_that_repeats: CreationsRepeat in
        creation::no_life_of_a_name_has_the_creation_of_another;
    a_claimants_memory_that_is_ignored: CreationsIgnoreTheLast in
        creation::a_creation_differs_from_the_one_that_the_claimant_remembers;
    a_count_from_a_remembered_offline_creation: CreationsFollowTheLast in
        creation::a_remembered_offline_creation_is_not_counted_on_from;
    a_count_that_a_renewal_does_not_restore: CreationsIgnoreRenewals in
        creation::after_a_restored_registration_the_next_creation_differs;
    a_count_from_an_offline_creation: CreationsFollowTheHolder in
        creation::an_offline_creation_is_kept_and_not_counted_on_from;
    a_count_that_a_late_renewal_lowers: CreationsFollowTheReleased in
        creation::a_late_renewal_of_an_earlier_life_brings_no_creation_back;
    a_creation_that_comes_back_after_a_ttl: CreationsRepeat in
        expiry::a_name_that_ran_out_gets_a_new_owner_and_a_new_creation;
    a_renewal_that_steals: RenewSteals in
        exclusion::a_renewal_never_overwrites_another_owner;
    an_earlier_life_that_counts_as_another_owner: RenewKnowsNoPast in
        renewing::a_renewal_replaces_an_earlier_life_that_the_same_run_left_behind;
    an_earlier_run_that_counts_as_another_owner: RenewKnowsNoPast in
        exclusion::a_renewal_replaces_what_an_earlier_run_that_is_over_left_behind;
    a_name_that_is_taken_from_the_other_of_two_runs: RenewSteals in
        exclusion::a_renewal_replaces_what_an_earlier_run_that_is_over_left_behind;
    a_renewal_without_the_extra: RenewDropsExtra in
        renewing::a_renewal_restores_the_full_record_after_a_loss;
    a_renewal_with_rounded_times: RenewRoundsTimes in
        renewing::a_renewal_restores_the_full_record_after_a_loss;
    a_renewal_that_restores_nothing: RenewRestoresNothing in
        renewing::a_renewal_restores_the_full_record_after_a_loss;
    a_renewal_that_publishes_nothing: RenewRestoresNothing in
        renewing::a_renewal_publishes_a_node_that_was_accepted_without_the_store;
    a_renewal_that_brings_nothing_back: RenewRestoresNothing in
        expiry::a_renewal_brings_back_what_ran_out;
    a_renewal_answered_for_another_lease: RenewMistakesTokens in
        exclusion::a_renewal_says_what_became_of_which_lease;
    a_renewal_that_changes_times: RenewRoundsTimes in
        renewing::a_renewal_that_is_repeated_changes_nothing;
    a_renewal_told_as_a_change: RenewWritesAnew in
        watching::renewals_are_no_changes;
    a_batch_that_is_cut: RenewCutsTheBatch in
        renewing::a_thousand_leases_are_renewed_in_one_round;
    a_renewal_that_extends_nothing: RenewExtendsNothing in
        expiry::a_renewal_extends_the_lease;
    a_daemon_that_renewing_does_not_announce: RenewIgnoresEmptyRounds in
        daemons::a_daemon_is_listed_once_it_registered_or_renewed;
    a_daemon_that_dies_of_renewing_nothing: RenewIgnoresEmptyRounds in
        expiry::a_daemon_that_renews_nothing_stays_alive_by_renewing;
    a_renewal_that_leaves_its_daemon_dead: RenewLeavesTheDaemonDead in
        silence::a_holder_that_renews_keeps_its_name;
    a_released_lease_that_is_renewed: RenewRevivesTheReleased in
        renewing::a_lease_released_while_a_round_is_under_way_is_not_renewed;
    a_round_that_ends_what_is_new: RenewEndsWhatIsNew in
        renewing::what_is_registered_while_a_round_is_under_way_is_kept;
    a_round_that_keeps_what_it_leaves_out: RenewKeepsAll in
        expiry::what_a_round_of_renewals_leaves_out_runs_out;
    a_node_that_is_not_published: PublishRestoresNothing in
        publishing::a_node_that_was_accepted_without_the_store_is_published;
    a_publication_that_is_a_round: PublishEndsTheRest in
        publishing::publishing_some_does_not_end_the_rest;
    a_publication_that_knows_no_past: RenewKnowsNoPast in
        publishing::publishing_replaces_an_earlier_life_that_the_same_run_left_behind;
    a_publication_that_extends_nothing: PublishRestoresNothing in
        expiry::what_is_published_is_extended_and_its_daemon_alive;
    a_change_of_address_that_nobody_hears_of: UpdateDoesNothing in
        daemons::what_changes_of_a_daemon_is_read_after_its_next_renewal;
    a_release_that_does_nothing: ReleaseDoesNothing in
        releasing::a_released_name_is_gone_for_everybody_and_free;
    a_second_release_that_fails: ReleaseFailsTheSecondTime in
        releasing::a_release_that_is_repeated_does_nothing;
    a_release_by_name: ReleaseIgnoresTheToken in
        releasing::releasing_a_replaced_lease_leaves_its_successor_alone;
    a_late_release_that_evicts: ReleaseIgnoresTheToken in
        silence::an_old_owner_that_renews_or_releases_late_leaves_the_new_one_alone;
    an_absence_that_is_an_error: FindFailsOnNothing in
        finding::nothing_is_found_where_nothing_is_registered;
    a_name_found_outside_its_scope: FindIgnoresTheScope in
        finding::a_name_is_found_by_its_host_its_alias_and_the_cluster_only;
    a_name_not_found_by_its_alias: FindKnowsNoAlias in
        finding::a_name_is_found_by_its_host_its_alias_and_the_cluster_only;
    more_found_than_wanted: FindIgnoresTheBound in
        finding::of_many_no_more_are_found_than_are_wanted_the_askers_own_among_them;
    the_askers_own_host_left_out: FindIgnoresTheAsker in
        finding::of_many_no_more_are_found_than_are_wanted_the_askers_own_among_them;
    an_alias_before_the_host: FindStartsWithAliases in
        finding::the_host_itself_comes_before_those_that_have_its_name_as_an_alias;
    an_alias_that_stays: FindRemembersAliases in
        finding::an_alias_of_an_earlier_run_finds_nothing;
    a_host_forgotten_by_its_daemon: FindKnowsOnlyAliases in
        finding::hosts_are_compared_without_case;
    a_name_that_is_a_pattern: FindMatchesPatterns in
        finding::every_name_that_a_node_may_have_finds_itself_alone;
    names_compared_without_case: FindIgnoresCase in
        finding::every_name_that_a_node_may_have_finds_itself_alone;
    a_dropped_registration_that_blocks: DroppedCallsBlock in
        dropping::a_registration_that_was_dropped_can_be_made_again;
    a_dropped_renewal_that_blocks: DroppedCallsBlock in
        dropping::a_renewal_that_was_dropped_can_be_made_again;
    a_dropped_release_that_blocks: DroppedCallsBlock in
        dropping::a_release_that_was_dropped_can_be_made_again;
    a_dropped_question_that_blocks: DroppedCallsBlock in
        dropping::a_question_that_was_dropped_can_be_asked_again;
    a_list_of_more_than_its_scope: ListIgnoresTheScope in
        listing::a_list_holds_what_is_in_its_scope;
    a_refused_daemon_that_is_not_announced: RefusalAnnouncesNobody in
        exclusion::a_daemon_that_is_refused_is_listed;
    daemons_outside_their_scope: DaemonsIgnoreTheScope in
        daemons::daemons_are_listed_within_their_scope;
    a_retired_daemon_whose_names_vanish: RetireReleases in
        daemons::a_retired_daemon_is_not_listed_and_its_names_stay;
    a_silent_daemon_that_stays: DaemonsNeverFallSilent in
        expiry::a_daemon_that_fell_silent_is_not_listed;
    a_note_that_is_cut: NotesEndWithANul in
        notes::a_note_is_read_by_all_as_it_was_left;
    a_first_note_that_stays: FirstNotesStay in
        notes::the_last_note_of_a_daemon_stands;
    a_note_that_announces_its_daemon: NotesAnnounceTheirDaemon in
        notes::a_note_makes_nobody_count_as_alive;
    a_note_that_outlives_its_daemon: NotesOutliveTheirDaemon in
        notes::a_retired_daemon_has_no_note;
    a_short_note: NotesAreShort in
        notes::a_note_may_be_long;
    a_note_that_renewals_keep: RenewKeepsNotes in
        expiry::a_note_that_is_not_left_again_runs_out;
    a_silent_holder_that_lives_as_long_as_its_leases: HoldersOutliveTheirLiveness in
        silence::a_holder_that_fell_silent_loses_its_name_before_its_lease_is_over;
    a_registration_that_never_runs_out: RegistrationsNeverRunOut in
        expiry::a_registration_runs_out_with_its_ttl;
    a_registration_that_runs_out_early: RegistrationsRunOutEarly in
        expiry::a_registration_lasts_for_its_ttl;
    time_left_that_is_never_less: LeftIsAlwaysTheTtl in
        expiry::what_is_found_says_how_long_it_lives_on;
    a_release_told_as_a_registration: WatchMistakesReleases in
        watching::what_is_registered_moved_and_released_is_told_to_others;
}

/// What a broken registry does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    RegisterDropsExtra,
    RegisterSteals,
    RefusalNamesTheClaimant,
    RegisterRefusesTheHolder,
    RegisterRefusesTheNextRun,
    RetireDoesNothing,
    RegisterRefusesRepetition,
    RegisterGrantsRepetitionAnew,
    RegisterForgetsTheHost,
    RegisterChecksThenActs,
    LateClaimsEvict,
    CreationsRepeat,
    CreationsIgnoreTheLast,
    CreationsFollowTheLast,
    CreationsIgnoreRenewals,
    CreationsFollowTheHolder,
    CreationsFollowTheReleased,
    RenewSteals,
    RenewKnowsNoPast,
    RenewDropsExtra,
    RenewRoundsTimes,
    RenewRestoresNothing,
    RenewMistakesTokens,
    RenewWritesAnew,
    RenewCutsTheBatch,
    RenewExtendsNothing,
    RenewIgnoresEmptyRounds,
    RenewLeavesTheDaemonDead,
    RenewRevivesTheReleased,
    RenewEndsWhatIsNew,
    RenewKeepsAll,
    RenewKeepsNotes,
    PublishRestoresNothing,
    PublishEndsTheRest,
    UpdateDoesNothing,
    ReleaseDoesNothing,
    ReleaseFailsTheSecondTime,
    ReleaseIgnoresTheToken,
    FindFailsOnNothing,
    FindIgnoresTheScope,
    FindKnowsNoAlias,
    FindIgnoresTheBound,
    FindIgnoresTheAsker,
    FindStartsWithAliases,
    FindRemembersAliases,
    FindKnowsOnlyAliases,
    FindMatchesPatterns,
    FindIgnoresCase,
    DroppedCallsBlock,
    ListIgnoresTheScope,
    RefusalAnnouncesNobody,
    DaemonsIgnoreTheScope,
    RetireReleases,
    DaemonsNeverFallSilent,
    HoldersOutliveTheirLiveness,
    RegistrationsNeverRunOut,
    RegistrationsRunOutEarly,
    LeftIsAlwaysTheTtl,
    WatchMistakesReleases,
    NotesEndWithANul,
    FirstNotesStay,
    NotesAnnounceTheirDaemon,
    NotesOutliveTheirDaemon,
    NotesAreShort,
}

/// One daemon's handle to the reference registry with one defect.
#[derive(Debug)]
struct Broken {
    store: Memory,
    memory: Handle,
    instance: Arc<Instance>,
    defect: Defect,
    seen: Arc<Mutex<Passed>>,
}

/// What has passed through a broken registry, of all daemons.
#[derive(Debug, Default)]
struct Passed {
    leases: Vec<Lease>,
    released: Vec<Lease>,
    daemons: Vec<Arc<Instance>>,
    notes: Vec<Note>,
    /// The last creation that was granted.
    granted: Option<Creation>,
    /// What the round of renewals that is under way has taken.
    round: Vec<Lease>,
    /// Whether a call is under way, or was dropped.
    is_busy: bool,
}

/// A store of which each handle has `defect`.
async fn broken(lease_ttl: Duration, defect: Defect) -> InMemory {
    let seen = Arc::default();
    InMemory::with_leases(lease_ttl, move |store, instance| Broken {
        store: store.clone(),
        memory: store.attach(Arc::clone(&instance)),
        instance,
        defect,
        seen: Arc::clone(&seen),
    })
}

/// A registry that steals promises to exclude nobody, and keeps all other promises.
mod without_exclusion {
    use super::*;

    async fn fresh(lease_ttl: Duration) -> InMemory {
        broken(lease_ttl, Defect::RegisterSteals).await
    }

    repmd_backend_conformance::backend_conformance!(without exclusion: fresh);
}

impl Broken {
    fn seen(&self) -> MutexGuard<'_, Passed> {
        self.seen.lock().expect("nobody panics while holding it")
    }

    /// The lease that holds the name of `wanted` on its host.
    async fn holder(&self, wanted: &Registration) -> Result<Option<Lease>, BackendError> {
        let scope = Scope::Host(wanted.instance.host.clone());
        let mut found = self.memory.find(&all_of(&wanted.node.name, &scope)).await?.items;
        found.retain(|found| found.registration.instance.host == wanted.instance.host);
        let found = found.pop();
        let seen = self.seen();
        let holds = |lease: &&Lease| found.as_ref().is_some_and(|it| it.registration == lease.registration);
        Ok(seen.leases.iter().rev().find(holds).cloned())
    }

    /// A call that nobody else may make meanwhile.
    async fn be_busy(&self) -> Result<(), BackendError> {
        if self.defect == Defect::DroppedCallsBlock {
            if std::mem::replace(&mut self.seen().is_busy, true) {
                return Err(failed("another call is under way"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.seen().is_busy = false;
        }
        Ok(())
    }

    async fn evict(&self, wanted: &Registration) -> Result<(), BackendError> {
        match self.holder(wanted).await? {
            Some(holder) => self.memory.release(&holder).await,
            None => Ok(()),
        }
    }

    /// Renews whatever any daemon ever held.
    async fn renew_all(&self) -> Result<(), BackendError> {
        let leases = self.seen().leases.clone();
        for lease in leases {
            let holder = self.store.attach(Arc::clone(&lease.registration.instance));
            holder.publish(std::slice::from_ref(&lease)).await?;
        }
        Ok(())
    }

    /// What this run of the daemon was ever granted or let be written.
    fn own(&self) -> Vec<Lease> {
        let own = |lease: &&Lease| lease.token.instance == self.instance.id;
        self.seen().leases.iter().filter(own).cloned().collect()
    }

    /// Writes leases as the defect has it.
    async fn keep(&self, leases: Vec<Lease>) -> Result<Vec<Renewed>, BackendError> {
        let asked = leases.clone();
        let mut leases = leases;
        match self.defect {
            Defect::RenewExtendsNothing => leases.clear(),
            Defect::RenewDropsExtra => leases.iter_mut().for_each(|lease| {
                Arc::make_mut(&mut lease.registration).node.extra = Box::default();
            }),
            Defect::RenewRoundsTimes => leases.iter_mut().for_each(|lease| {
                Arc::make_mut(&mut lease.registration).registered_at -= Duration::from_nanos(789);
            }),
            Defect::RenewSteals => {
                for lease in &leases {
                    self.evict(&lease.registration).await?;
                }
            }
            Defect::RenewKnowsNoPast => {
                let mut renewed = Vec::new();
                for lease in &leases {
                    renewed.extend(match self.holder(&lease.registration).await? {
                        Some(holder) if holder.token != lease.token => {
                            let holder = holder.registration.instance.name.clone();
                            vec![Renewed { lease: lease.clone(), renewal: Renewal::Conflict { holder } }]
                        }
                        _ => self.memory.publish(std::slice::from_ref(lease)).await?,
                    });
                }
                return Ok(renewed);
            }
            Defect::RenewWritesAnew => {
                for lease in &leases {
                    self.memory.release(lease).await?;
                }
            }
            _ => {}
        }
        let mut renewed = self.memory.publish(&leases).await?;
        renewed.extend(asked[leases.len()..].iter().map(held));
        if self.defect == Defect::RenewMistakesTokens {
            let renewals: Vec<_> = renewed.iter().rev().map(|renewed| renewed.renewal.clone()).collect();
            renewed.iter_mut().zip(renewals).for_each(|(renewed, renewal)| renewed.renewal = renewal);
        }
        self.seen().leases.extend(leases);
        Ok(renewed)
    }

    /// The creation that a defect gives to a claim, in the place of the right one.
    fn wrong_creation(&self, claim: &Claim, holder: Option<&Lease>) -> Option<Creation> {
        let one_more = |creation: Creation| Creation::new(creation.get() + 1);
        match self.defect {
            Defect::CreationsRepeat => Some(Creation::FIRST),
            Defect::CreationsFollowTheLast => claim.last.and_then(one_more),
            Defect::CreationsFollowTheHolder => {
                holder.map(Lease::creation).filter(|creation| creation.is_offline()).and_then(one_more)
            }
            Defect::CreationsFollowTheReleased => {
                self.seen().released.last().map(|lease| lease.creation().next())
            }
            Defect::CreationsIgnoreRenewals => self.seen().granted.map(Creation::next),
            _ => None,
        }
    }
}

/// A search that leaves nothing out.
fn all_of<'a>(name: &'a AliveName, scope: &'a Scope) -> Search<'a> {
    static NOBODY: LazyLock<HostId> = LazyLock::new(|| HostId::parse("nobody").expect("a host"));
    Search { name, scope, near: &NOBODY, most: usize::MAX }
}

fn refused_by(holder: &Lease) -> BackendError {
    let registration = &holder.registration;
    BackendError::NameTaken { name: registration.node_name(), holder: registration.instance.name.clone() }
}

/// The answer of a registry that does not look.
fn held(lease: &Lease) -> Renewed {
    Renewed { lease: lease.clone(), renewal: Renewal::Held }
}

fn failed(what: &str) -> BackendError {
    BackendError::Unavailable { waited: Duration::ZERO, source: what.into() }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Broken {
    fn promises(&self) -> Promises {
        let promises = self.memory.promises();
        match self.defect {
            Defect::RegistrationsRunOutEarly => {
                Promises { lease_ttl: promises.lease_ttl.map(|ttl| ttl * 2), ..promises }
            }
            Defect::RegisterSteals => Promises { excludes: false, ..promises },
            _ => promises,
        }
    }

    fn update(&self, instance: Arc<Instance>) {
        if self.defect != Defect::UpdateDoesNothing {
            self.memory.update(instance);
        }
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        self.be_busy().await?;
        let mut claim = claim.clone();
        let wanted = claim.granted(Arc::clone(&self.instance), Creation::FIRST).registration;
        let holder = self.holder(&wanted).await?;
        let (same_token, same_run) = holder.as_ref().map_or((false, false), |holder| {
            (holder.token == claim.token(self.instance.id), holder.token.instance == self.instance.id)
        });
        match (self.defect, &holder) {
            (Defect::RegisterDropsExtra, _) => claim.node.extra = Box::default(),
            (Defect::CreationsIgnoreTheLast, _) => claim.last = None,
            (Defect::RegisterSteals, Some(_)) if !same_run => self.evict(&wanted).await?,
            (Defect::RegisterGrantsRepetitionAnew, Some(_)) if same_token => self.evict(&wanted).await?,
            (Defect::RegisterRefusesRepetition, Some(holder)) if same_token => {
                return Err(refused_by(holder));
            }
            (Defect::RegisterRefusesTheHolder, Some(holder)) if same_run => return Err(refused_by(holder)),
            (Defect::RegisterRefusesTheNextRun, Some(holder)) if !same_run => return Err(refused_by(holder)),
            (Defect::LateClaimsEvict, Some(holder)) if same_run && claim.number < holder.token.number => {
                self.evict(&wanted).await?;
            }
            (Defect::RegisterForgetsTheHost, None) => {
                if let Some(holder) =
                    self.seen().leases.iter().find(|it| it.registration.node.name == claim.node.name)
                {
                    return Err(refused_by(holder));
                }
            }
            (Defect::RegisterChecksThenActs, None) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.evict(&wanted).await?;
            }
            (Defect::HoldersOutliveTheirLiveness, Some(holder)) => {
                self.store.attach(Arc::clone(&holder.registration.instance)).publish(&[]).await?;
            }
            _ => {}
        }
        match self.memory.register(&claim).await {
            Ok(lease) => {
                let mut seen = self.seen();
                seen.leases.push(lease.clone());
                seen.daemons.push(Arc::clone(&self.instance));
                drop(seen);
                let wrong = self.wrong_creation(&claim, holder.as_ref());
                let instance = Arc::clone(&self.instance);
                let lease = wrong.map_or(lease, |wrong| claim.granted(instance, wrong));
                self.seen().granted = Some(lease.creation());
                Ok(lease)
            }
            Err(BackendError::NameTaken { name, .. }) if self.defect == Defect::RefusalNamesTheClaimant => {
                Err(BackendError::NameTaken { name, holder: self.instance.name.clone() })
            }
            Err(error) => {
                if self.defect == Defect::RefusalAnnouncesNobody {
                    self.memory.retire().await?;
                }
                Err(error)
            }
        }
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.be_busy().await?;
        let taken = held.take(500);
        match self.defect {
            Defect::RenewIgnoresEmptyRounds if taken.is_empty() => return Ok(Vec::new()),
            Defect::RenewCutsTheBatch => {
                self.keep(taken[..taken.len().min(100)].to_vec()).await?;
                return Ok(taken.iter().map(self::held).collect());
            }
            Defect::RenewRestoresNothing => {
                for lease in &taken {
                    if self.holder(&lease.registration).await?.is_some() {
                        self.keep(vec![lease.clone()]).await?;
                    }
                }
                return Ok(taken.iter().map(self::held).collect());
            }
            Defect::RenewEndsWhatIsNew => {
                self.seen().round.extend(taken.iter().cloned());
                let round = self.seen().round.clone();
                let mut new = self.own();
                new.retain(|lease| !round.iter().any(|taken| taken.token == lease.token));
                if held.is_empty() {
                    for lease in new {
                        self.memory.release(&lease).await?;
                    }
                }
            }
            Defect::RenewRevivesTheReleased | Defect::RenewKeepsAll => {
                self.memory.publish(&self.own()).await?;
            }
            Defect::RenewKeepsNotes => {
                let last = self.seen().notes.last().map(|note| note.text.clone());
                if let Some(text) = last {
                    self.memory.leave_note(&text).await?;
                }
            }
            _ => {}
        }
        let renewed = self.keep(taken).await?;
        if self.defect == Defect::RenewLeavesTheDaemonDead {
            self.memory.retire().await?;
        }
        Ok(renewed)
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        self.be_busy().await?;
        match self.defect {
            Defect::PublishRestoresNothing => return Ok(leases.iter().map(held).collect()),
            Defect::PublishEndsTheRest => {
                for lease in self.own() {
                    self.memory.release(&lease).await?;
                }
            }
            _ => {}
        }
        self.keep(leases.to_vec()).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        self.be_busy().await?;
        let again = self.seen().released.iter().any(|released| released.token == lease.token);
        self.seen().released.push(lease.clone());
        match self.defect {
            Defect::ReleaseDoesNothing => Ok(()),
            Defect::ReleaseFailsTheSecondTime if again => Err(failed("no such lease")),
            Defect::ReleaseIgnoresTheToken => self.evict(&lease.registration).await,
            _ => self.memory.release(lease).await,
        }
    }

    async fn retire(&self) -> Result<(), BackendError> {
        if self.defect == Defect::RetireReleases {
            for lease in self.own() {
                self.memory.release(&lease).await?;
            }
        }
        if self.defect == Defect::RetireDoesNothing { Ok(()) } else { self.memory.retire().await }
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        self.be_busy().await?;
        let Search { name, scope, .. } = *search;
        if self.defect == Defect::RegistrationsNeverRunOut {
            self.renew_all().await?;
        }
        let mut found = self.memory.find(search).await?.items;
        let all = self.memory.list(scope).await?.items;
        match (self.defect, scope) {
            (Defect::FindFailsOnNothing, _) if found.is_empty() => return Err(failed("nothing is there")),
            (Defect::FindIgnoresTheScope, _) => {
                found = self.memory.find(&all_of(name, &Scope::Cluster)).await?.items;
            }
            (Defect::FindKnowsNoAlias, Scope::Host(host)) => {
                found.retain(|found| found.registration.instance.host == *host);
            }
            (Defect::FindKnowsOnlyAliases, Scope::Host(host)) => {
                found.retain(|found| found.registration.instance.host != *host);
            }
            (Defect::FindIgnoresTheBound, _) => found = self.memory.find(&all_of(name, scope)).await?.items,
            (Defect::FindIgnoresTheAsker, _) => {
                found = self.memory.find(&all_of(name, scope)).await?.items;
                found.sort_by_key(|found| found.registration.instance.host == *search.near);
                found.truncate(search.most);
            }
            (Defect::FindStartsWithAliases, Scope::Host(host)) => {
                found = self.memory.find(&all_of(name, scope)).await?.items;
                found.sort_by_key(|found| found.registration.instance.host == *host);
                found.truncate(search.most);
            }
            (Defect::FindRemembersAliases, Scope::Host(host))
                if self.seen().daemons.iter().any(|daemon| daemon.answers_to(host)) =>
            {
                found = self.memory.find(&all_of(name, &Scope::Cluster)).await?.items;
            }
            (Defect::FindMatchesPatterns, _) => {
                if let Some((start, _)) = name.as_str().split_once('*') {
                    found = all;
                    found.retain(|found| found.registration.node.name.as_str().starts_with(start));
                }
            }
            (Defect::FindIgnoresCase, _) => {
                found = all;
                let same = |other: &AliveName| other.as_str().eq_ignore_ascii_case(name.as_str());
                found.retain(|found| same(&found.registration.node.name));
            }
            (Defect::LeftIsAlwaysTheTtl, _) => {
                found.iter_mut().for_each(|found| found.left = self.promises().lease_ttl);
            }
            _ => {}
        }
        Ok(found.into())
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let is_wide = self.defect == Defect::ListIgnoresTheScope;
        self.memory.list(if is_wide { &Scope::Cluster } else { scope }).await
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        match self.defect {
            Defect::DaemonsIgnoreTheScope => self.memory.daemons(&Scope::Cluster).await,
            Defect::DaemonsNeverFallSilent => Ok(self.seen().daemons.clone().into()),
            _ => self.memory.daemons(scope).await,
        }
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let text = match self.defect {
            Defect::NotesEndWithANul => note.split(|byte| *byte == 0).next().unwrap_or_default(),
            Defect::NotesAreShort => &note[..note.len().min(1000)],
            _ => note,
        };
        let is_first = !self.seen().notes.iter().any(|note| note.instance == self.instance.id);
        if is_first {
            self.seen().notes.push(Note { instance: self.instance.id, text: text.into() });
        }
        if self.defect == Defect::NotesAnnounceTheirDaemon {
            self.memory.publish(&[]).await?;
        }
        match self.defect {
            Defect::FirstNotesStay if !is_first => Ok(()),
            _ => self.memory.leave_note(text).await,
        }
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        match self.defect {
            Defect::NotesOutliveTheirDaemon => Ok(self.seen().notes.clone().into()),
            _ => self.memory.notes().await,
        }
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        let mistakes = self.defect == Defect::WatchMistakesReleases;
        Box::pin(self.memory.watch().map(move |change| match change {
            Change::Released(name, host) if mistakes => Change::Registered(name, host),
            change => change,
        }))
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.memory.local_address()
    }
}
