//! Each mistake must be found in some world, in which without it all is well; the first such seed is printed.

use trellis_rate::mutation::{self, Mutation};

use crate::SEEDS;
use crate::chance::Faults;
use crate::judge::over;
use crate::world::World;

fn first_seed_that_finds(mutation: Mutation) -> Option<u64> {
    (0..SEEDS).find(|seed| {
        let is_over = || {
            let world = World::run(*seed, Faults::all());
            over(&world) > 0
        };
        mutation::with(mutation, is_over) && !is_over()
    })
}

fn is_found(mutation: Mutation) {
    match first_seed_that_finds(mutation) {
        Some(seed) => println!("{mutation:?}: seed {seed}"),
        None => panic!("{mutation:?} was found in none of {SEEDS} worlds"),
    }
}

#[test]
fn a_skipped_learning_period_is_found() {
    is_found(Mutation::LearningSkipped);
}

#[test]
fn spent_tokens_that_return_at_once_are_found() {
    is_found(Mutation::SpentReturnsAtOnce);
}

#[test]
fn use_that_is_not_told_is_found() {
    is_found(Mutation::UseIsNotTold);
}

#[test]
fn pods_that_ended_before_and_are_forgotten_are_found() {
    is_found(Mutation::EndedAreForgotten);
}

#[test]
fn an_earlier_process_that_is_forgotten_is_found() {
    is_found(Mutation::RestartIsForgotten);
}

#[test]
fn an_authority_that_outlives_its_claim_is_found() {
    is_found(Mutation::ClaimOutlived);
}

#[test]
fn hearsay_taken_for_the_present_is_found() {
    is_found(Mutation::HearsayIsBelieved);
}

#[test]
fn fallbacks_that_are_not_set_aside_are_found() {
    is_found(Mutation::FallbackNotSetAside);
}

#[test]
fn a_lease_that_is_used_after_its_end_is_found() {
    is_found(Mutation::LeaseOutlived);
}

#[test]
fn an_answer_to_an_earlier_request_that_is_taken_is_found() {
    is_found(Mutation::AnyAnswerTaken);
}

#[test]
fn a_lease_counted_from_its_receipt_is_found() {
    is_found(Mutation::LengthFromReceipt);
}
