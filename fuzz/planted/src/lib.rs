//! The enclave with bugs planted on purpose, one of which can be switched on in a thread.
//!
//! `build.rs` copies trusted/enclave and plants in the copy what `bugs.rs` lists. Nothing ships
//! this: it is there to see that the hostile host of `toani-fuzz` finds each.

use std::cell::Cell;

thread_local! {
    static BUG: Cell<usize> = const { Cell::new(0) };
}

/// Switches a bug of this thread on, by its place in the list, counted from 1; 0 is none.
pub fn plant(bug: usize) {
    BUG.set(bug);
}

fn is_planted(bug: usize) -> bool {
    BUG.get() == bug
}

include!(concat!(env!("OUT_DIR"), "/lib.rs"));
