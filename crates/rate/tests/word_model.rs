//! Every order in which two threads can change a word, by model checking: the source itself, with other atomics.

#![allow(clippy::unwrap_used, missing_docs)]

use loom::sync::Arc;

mod atomic {
    pub use loom::sync::atomic::{AtomicU64, Ordering};

    pub fn pause(_turn: u32) {
        loom::thread::yield_now();
    }
}

#[path = "../src/word.rs"]
mod word;

use word::Word;

/// Takes one of at most `most`.
fn take(word: &Word, most: u64) -> bool {
    word.change(|state| {
        if state < most {
            (Some(state + 1), true)
        } else {
            (None, false)
        }
    })
}

/// Takes one of each, or none.
fn take_both(first: &Word, second: &Word, most: u64) -> bool {
    let (first, second) = (first.hold(), second.hold());
    let (a, b) = (first.state(), second.state());
    if a < most && b < most {
        first.set(a + 1);
        second.set(b + 1);
        return true;
    }
    false
}

#[test]
fn two_threads_never_take_more_than_there_is() {
    loom::model(|| {
        let word = Arc::new(Word::new(0));
        let other = Arc::clone(&word);
        let thread = loom::thread::spawn(move || u64::from(take(&other, 2)) + u64::from(take(&other, 2)));
        let taken = u64::from(take(&word, 2));
        assert_eq!(taken + thread.join().unwrap(), 2);
        assert_eq!(word.state(), 2);
    });
}

#[test]
fn all_or_none_is_taken_while_another_thread_takes_the_last_of_one() {
    loom::model(|| {
        let words = Arc::new((Word::new(0), Word::new(0)));
        let other = Arc::clone(&words);
        let thread = loom::thread::spawn(move || take(&other.1, 1));
        let both = take_both(&words.0, &words.1, 1);
        let second = thread.join().unwrap();
        assert!(
            both != second,
            "one of the two gets it, never none: {both} {second}"
        );
        assert_eq!(words.0.state(), u64::from(both), "a refusal leaves no charge");
        assert_eq!(words.1.state(), 1);
    });
}

#[test]
fn two_decisions_on_two_words_pass_one_after_the_other() {
    loom::model(|| {
        let words = Arc::new((Word::new(0), Word::new(0)));
        let other = Arc::clone(&words);
        let thread = loom::thread::spawn(move || take_both(&other.0, &other.1, 1));
        let both = take_both(&words.0, &words.1, 1);
        assert!(both != thread.join().unwrap());
        assert_eq!((words.0.state(), words.1.state()), (1, 1));
    });
}

#[test]
fn a_change_made_while_the_word_is_held_is_not_lost() {
    loom::model(|| {
        let word = Arc::new(Word::new(0));
        let other = Arc::clone(&word);
        let thread = loom::thread::spawn(move || take(&other, 2));
        let held = word.hold();
        let state = held.state();
        held.set(state + 1);
        assert!(thread.join().unwrap());
        assert_eq!(word.state(), 2);
    });
}
