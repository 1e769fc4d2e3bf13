//! Each wipe is looked at through the memory itself, which outlives what was wiped in it.
#![allow(unsafe_code, reason = "looks at memory that no value owns any more")]

extern crate std;

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::{Cell, UnsafeCell},
    mem::{ManuallyDrop, MaybeUninit},
    num::NonZeroU32,
};
use std::{format, string::String, vec, vec::Vec};

use super::*;

/// The bytes of a value after it was dropped in place.
fn after_drop<T>(value: T) -> Vec<u8> {
    let mut place = ManuallyDrop::new(value);
    // SAFETY: dropped once, here, and not used as a `T` any more.
    unsafe { ManuallyDrop::drop(&mut place) };
    bytes_of(&place)
}

/// The bytes of a place, for types without padding.
fn bytes_of<T>(place: &T) -> Vec<u8> {
    let start: *const T = place;
    // SAFETY: the place is there, and the tests' types have no padding.
    unsafe { core::slice::from_raw_parts(start.cast::<u8>(), size_of::<T>()) }.to_vec()
}

#[test]
fn a_dropped_wrapper_leaves_zeros() {
    assert_eq!(after_drop(Zeroizing::new([0xa5u8; 64])), [0; 64]);
    assert_eq!(after_drop(Zeroizing::new((7u64, [9u32; 2]))), [0; 16]);
    assert_eq!(after_drop(Zeroizing::new(Some(NonZeroU32::MAX))), [0; 4]);
    // Without the wrapper it all stays: the test can see what is not wiped.
    assert_eq!(after_drop([0xa5u8; 64]), [0xa5; 64]);
}

#[test]
fn every_kind_of_number_is_wiped() {
    macro_rules! wiped {
        ($($value:expr),*) => { $(
            let mut value = $value;
            value.zeroize();
            assert!(bytes_of(&value).iter().all(|byte| *byte == 0));
            let mut many = [$value; 5];
            many.zeroize();
            assert!(bytes_of(&many).iter().all(|byte| *byte == 0));
        )* };
    }
    wiped!(u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX, usize::MAX, true, 'x');
    wiped!(-1i8, -1i16, -1i32, -1i64, -1i128, -1isize, 1.5f32, 1.5f64, Wrapping(7u8));
    let mut number = NonZeroU32::MAX;
    number.zeroize();
    assert_eq!(number, NonZeroU32::MIN);
}

#[test]
fn a_default_that_is_not_zero_is_put_there() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Port(u16);
    impl Default for Port {
        fn default() -> Self {
            Self(443)
        }
    }
    impl DefaultIsZeroes for Port {}
    let mut ports = [Port(1), Port(2)];
    ports.zeroize();
    assert_eq!(ports, [Port(443), Port(443)]);
}

#[test]
fn a_vector_is_wiped_to_its_capacity_and_stays_usable() {
    let mut secret = vec![0xa5u8; 100];
    secret.truncate(10);
    let (start, capacity) = (secret.as_ptr(), secret.capacity());
    secret.zeroize();
    assert!(secret.is_empty());
    assert_eq!((secret.as_ptr(), secret.capacity()), (start, capacity));
    // SAFETY: the vector's own memory; all 100 bytes were written before.
    assert_eq!(unsafe { core::slice::from_raw_parts(start, 100) }, [0; 100]);
    secret.push(1);
    assert_eq!(secret, [1]);
}

#[test]
fn elements_are_wiped_by_their_own_rule() {
    let mut inner = [[0xa5u8; 4]; 2];
    let [first, second] = &mut inner;
    let mut nested = vec![first.iter_mut(), second.iter_mut()];
    nested.zeroize();
    assert_eq!(inner, [[0; 4]; 2]);
}

#[test]
fn texts_options_and_uninitialised_memory_are_wiped() {
    let mut text = String::from("hunter2");
    let start = text.as_ptr();
    text.zeroize();
    assert!(text.is_empty());
    // SAFETY: the string keeps its memory, of which 7 bytes were written.
    assert_eq!(unsafe { core::slice::from_raw_parts(start, 7) }, [0; 7]);
    let mut boxed: Box<str> = "hunter2".into();
    boxed.zeroize();
    assert_eq!(&*boxed, "\0\0\0\0\0\0\0");
    let mut maybe = Some([0xa5u8; 32]);
    maybe.zeroize();
    assert_eq!(maybe, None);
    assert!(!bytes_of(&maybe).contains(&0xa5));
    let mut memory = [MaybeUninit::new(0xa5u8); 8];
    memory.zeroize();
    assert_eq!(bytes_of(&memory), [0; 8]);
}

#[test]
fn nothing_is_printed() {
    assert_eq!(format!("{:?}", Zeroizing::new([0x41u8; 3])), "Zeroizing(..)");
}

/// Memory for one block at a time, which stays after it was freed.
struct Arena {
    memory: UnsafeCell<[u8; 256]>,
    freed: Cell<usize>,
}

// SAFETY: the test asks for one block, of less than 256 bytes and alignment 1, and frees it once.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        self.memory.get().cast()
    }

    unsafe fn dealloc(&self, _: *mut u8, layout: Layout) {
        self.freed.set(layout.size());
    }
}

#[test]
fn a_freed_block_is_wiped_and_nothing_beyond_it() {
    let arena = Arena { memory: UnsafeCell::new([0xa5; 256]), freed: Cell::new(0) };
    let allocator = WipingAllocator(arena);
    let layout = Layout::array::<u8>(200).unwrap();
    // SAFETY: allocated with this layout, and freed with it once.
    unsafe {
        let block = allocator.alloc(layout);
        allocator.dealloc(block, layout);
    }
    assert_eq!(allocator.0.freed.get(), 200);
    let memory = allocator.0.memory.into_inner();
    assert_eq!(memory[..200], [0; 200]);
    assert_eq!(memory[200..], [0xa5; 56]);
}

#[cfg(feature = "zeroize_derive")]
#[test]
fn derived_wipes_come_here() {
    #[derive(crate::Zeroize, crate::ZeroizeOnDrop)]
    struct Key {
        bytes: [u8; 32],
        counter: u64,
    }
    assert_eq!(after_drop(Key { bytes: [0xa5; 32], counter: 7 }), [0; 40]);
}
