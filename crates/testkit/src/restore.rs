//! Putting back what a test changes for others: it happens even if the test panics, as every wait does at its deadline.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, resume_unwind},
};

use futures::FutureExt as _;

/// Runs `body`, then `restore`, whatever became of the body.
///
/// # Errors
/// That of the body, else that of `restore`; if both fail, the latter is printed.
///
/// # Panics
/// If one of them does.
pub async fn restoring<T, E: Debug>(
    body: impl Future<Output = Result<T, E>>,
    restore: impl Future<Output = Result<(), E>>,
) -> Result<T, E> {
    // What the body leaves half done is what `restore` is for.
    let outcome = AssertUnwindSafe(body).catch_unwind().await;
    let restored = restore.await;
    if let (Err(_) | Ok(Err(_)), Err(error)) = (&outcome, &restored) {
        eprintln!("failed to put back what the test changed: {error:?}");
    }
    match outcome {
        Ok(Ok(value)) => restored.map(|()| value),
        Ok(Err(error)) => Err(error),
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn run(
        body: impl Future<Output = Result<u8, &'static str>>,
        restored: Result<(), &'static str>,
    ) -> (std::thread::Result<Result<u8, &'static str>>, bool) {
        let ran = Cell::new(false);
        let restore = async {
            ran.set(true);
            restored
        };
        let outcome = AssertUnwindSafe(restoring(body, restore)).catch_unwind().await;
        (outcome, ran.get())
    }

    #[tokio::test]
    async fn what_was_changed_is_put_back_after_success_failure_and_panic() {
        let (outcome, restored) = run(async { Ok(7) }, Ok(())).await;
        assert_eq!((outcome.unwrap(), restored), (Ok(7), true));
        let (outcome, restored) = run(async { Err("body") }, Ok(())).await;
        assert_eq!((outcome.unwrap(), restored), (Err("body"), true));
        let (outcome, restored) = run(async { panic!("a deadline") }, Ok(())).await;
        let panic = outcome.unwrap_err();
        assert_eq!((panic.downcast_ref(), restored), (Some(&"a deadline"), true));
    }

    #[tokio::test]
    async fn what_could_not_be_put_back_fails_a_test_that_passed_and_hides_no_fault_of_one_that_did_not() {
        let (outcome, _) = run(async { Ok(7) }, Err("restore")).await;
        assert_eq!(outcome.unwrap(), Err("restore"));
        let (outcome, _) = run(async { Err("body") }, Err("restore")).await;
        assert_eq!(outcome.unwrap(), Err("body"));
    }
}
