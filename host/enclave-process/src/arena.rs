//! Memory for secrets: never swapped, never dumped, fenced, wiped when it is freed.
//!
//! The allocator gives every request that is aligned to a cache line a place in one fixed region;
//! everything else goes to the system. The trusted code keeps secrets in types of
//! `#[repr(C, align(64))]`, so that a box of one lands here without unsafe code over there.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::UnsafeCell,
    ptr::null_mut,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use rustix::mm::{Advice, MprotectFlags, madvise, mlock, mprotect};
use zeroize::Zeroize;

/// Alignment from which on a request counts as secret.
const SECRET_ALIGN: usize = 64;
/// One unit of the arena.
const UNIT: usize = 64;
const PAGE: usize = 4096;
/// Room for secrets. Ordinary users may lock 8 MiB.
const ARENA_BYTES: usize = 1024 * 1024;
const UNITS: usize = ARENA_BYTES / UNIT;
const WORDS: usize = UNITS / 64;

/// A fence, the arena, a fence.
#[repr(C, align(4096))]
struct Region {
    _before: [u8; PAGE],
    arena: [u8; ARENA_BYTES],
    _after: [u8; PAGE],
}

/// The global allocator.
pub(crate) struct Allocator {
    region: UnsafeCell<Region>,
    /// One bit for each unit that is in use.
    used: Mutex<[u64; WORDS]>,
}

// SAFETY: the region is reached through pointers that `alloc` hands out only, each to units that
// `used`, behind its lock, gives to nobody else meanwhile.
unsafe impl Sync for Allocator {}

impl Allocator {
    pub(crate) const fn new() -> Self {
        Self {
            region: UnsafeCell::new(Region {
                _before: [0; PAGE],
                arena: [0; ARENA_BYTES],
                _after: [0; PAGE],
            }),
            used: Mutex::new([0; WORDS]),
        }
    }

    fn start(&self) -> *mut u8 {
        self.region.get().cast::<u8>().wrapping_add(PAGE)
    }

    /// Locks the arena into memory, keeps it out of dumps and children, and puts up the fences.
    pub(crate) fn lock(&self) -> Result<()> {
        let start = self.start();
        let (before, after) = (start.wrapping_sub(PAGE), start.wrapping_add(ARENA_BYTES));
        // SAFETY: the range is the arena, which lives as long as the program; locking and these
        // two pieces of advice change none of its content in this process.
        let locked = unsafe {
            mlock(start.cast(), ARENA_BYTES)
                .and_then(|()| madvise(start.cast(), ARENA_BYTES, Advice::LinuxDontDump))
                .and_then(|()| madvise(start.cast(), ARENA_BYTES, Advice::LinuxDontFork))
        };
        locked.context(
            "cannot lock 1 MiB of memory for secrets; allow it with `ulimit -l 2048` \
             or LimitMEMLOCK=2M in the service's unit",
        )?;
        for fence in [before, after] {
            // SAFETY: each fence is one whole page of the region that nothing refers to.
            unsafe { mprotect(fence.cast(), PAGE, MprotectFlags::empty()) }
                .context("cannot fence the memory for secrets")?;
        }
        Ok(())
    }

    /// Takes `layout` from the arena; null where no run of units is free.
    fn take(&self, layout: Layout) -> *mut u8 {
        let count = layout.size().div_ceil(UNIT).max(1);
        if layout.align() > PAGE || count > UNITS {
            return null_mut();
        }
        let step = (layout.align() / UNIT).max(1);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = 0;
        while first + count <= UNITS {
            match (first..first + count).rev().find(|unit| bit(&used, *unit)) {
                // Go on behind the last unit that is in the way.
                Some(taken) => first = (taken + 1).next_multiple_of(step),
                None => {
                    (first..first + count).for_each(|unit| flip(&mut used, unit));
                    return self.start().wrapping_add(first * UNIT);
                }
            }
        }
        null_mut()
    }

    fn give_back(&self, at: *mut u8, layout: Layout) {
        let first = (at.addr() - self.start().addr()) / UNIT;
        let count = layout.size().div_ceil(UNIT).max(1);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        (first..first + count).for_each(|unit| flip(&mut used, unit));
    }

    fn holds(&self, at: *mut u8) -> bool {
        let start = self.start().addr();
        (start..start + ARENA_BYTES).contains(&at.addr())
    }
}

fn bit(used: &[u64; WORDS], unit: usize) -> bool {
    used.get(unit / 64).is_some_and(|word| word >> (unit % 64) & 1 == 1)
}

fn flip(used: &mut [u64; WORDS], unit: usize) {
    if let Some(word) = used.get_mut(unit / 64) {
        *word ^= 1 << (unit % 64);
    }
}

// SAFETY: pointers come from the system's allocator, or are runs of units of the arena that are
// aligned as asked, large enough, marked as used, and given back by the same layout.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() >= SECRET_ALIGN {
            return self.take(layout);
        }
        // SAFETY: the caller's promise is handed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.holds(at) {
            // SAFETY: the caller gives up `layout.size()` bytes at `at`, all in the arena.
            unsafe { std::slice::from_raw_parts_mut(at, layout.size()) }.zeroize();
            self.give_back(at, layout);
        } else {
            // SAFETY: the caller's promise is handed on as it is.
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() >= SECRET_ALIGN {
            // The arena starts as zeros, and what is freed is wiped to zeros.
            return self.take(layout);
        }
        // SAFETY: the caller's promise is handed on as it is.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(at) {
            // SAFETY: the caller's promise is handed on as it is.
            return unsafe { System.realloc(at, layout, size) };
        }
        let Ok(larger) = Layout::from_size_align(size, layout.align()) else {
            return null_mut();
        };
        let moved = self.take(larger);
        if !moved.is_null() {
            // SAFETY: both runs are in use, at least as long as what is copied, and distinct.
            unsafe {
                std::ptr::copy_nonoverlapping(at, moved, layout.size().min(size));
                self.dealloc(at, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALLOCATOR;

    #[repr(C, align(64))]
    struct Secret([u8; 100]);

    #[test]
    fn secrets_land_in_the_arena_and_are_wiped() {
        let mut secret = Box::new(Secret([7; 100]));
        let at = std::ptr::from_mut(&mut *secret).cast::<u8>();
        assert!(ALLOCATOR.holds(at));
        assert_eq!(secret.0, [7; 100]);
        let ordinary = Box::new([7u8; 100]);
        assert!(!ALLOCATOR.holds(ordinary.as_ptr().cast_mut()));

        // An arena of its own, so that nobody else takes the units in between.
        static OWN: Allocator = Allocator::new();
        let arena = &OWN;
        let layout = Layout::new::<Secret>();
        // SAFETY: allocated and freed with one layout; read from a static, which stays.
        unsafe {
            let first = arena.alloc(layout);
            first.write_bytes(7, 100);
            let second = arena.alloc(Layout::from_size_align(64, 4096).unwrap());
            assert_eq!(second.addr() % 4096, 0);
            assert_ne!(first, second);
            arena.dealloc(first, layout);
            assert_eq!(std::slice::from_raw_parts(first, 100), [0; 100]);
            assert_eq!(arena.alloc(layout), first, "units are used again");
            let grown = arena.realloc(first, layout, 5000);
            assert!(arena.holds(grown) && grown != first);
        }
    }

    #[test]
    fn a_full_arena_gives_null_and_never_overlaps() {
        static OWN: Allocator = Allocator::new();
        let arena = &OWN;
        let layout = Layout::from_size_align(100 * 1024, 64).unwrap();
        let mut taken = Vec::new();
        loop {
            let at = arena.take(layout);
            if at.is_null() {
                break;
            }
            taken.push(at.addr());
        }
        assert_eq!(taken.len(), ARENA_BYTES / (100 * 1024));
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= 100 * 1024));
        assert!(arena.take(Layout::from_size_align(64, 8192).unwrap()).is_null());
    }

    #[test]
    fn the_arena_can_be_locked() {
        static OWN: Allocator = Allocator::new();
        let arena = &OWN;
        arena.lock().unwrap();
        let at = arena.take(Layout::new::<Secret>());
        assert!(!at.is_null());
    }
}
