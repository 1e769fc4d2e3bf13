//! What a channel does between two sides that both tell the truth.

use toani_protocol::{evidence::Role, limits::MESSAGE_BYTES_MAX};
use toani_tls::ChannelError;

mod world;

use world::*;

#[test]
fn both_verify_each_other_and_talk() {
    let (mut a, mut b) = open();
    assert_eq!(a.channel().peer(), "boot_sandbox");
    assert_eq!(b.channel().peer(), "boot_enclave");
    a.send(b"a job");
    a.send(b"");
    b.send(b"an outcome");
    carry(&mut a, &mut b);
    assert_eq!(b.taken(), [b"a job".to_vec(), Vec::new()]);
    assert_eq!(a.taken(), [b"an outcome"]);
    assert_eq!(a.asked.len(), 1);
    assert_ne!(a.asked, b.asked);
}

#[test]
fn bytes_may_come_in_pieces() {
    for piece in [1, 2, 3, 7, 100, 1_000, 5_000] {
        let (mut a, mut b) = (enclave().side(), sandbox().side());
        carry_in(&mut a, &mut b, piece);
        a.send(&[7; 20_000]);
        carry_in(&mut a, &mut b, piece);
        assert_eq!(b.taken(), [vec![7; 20_000]]);
    }
}

#[test]
fn messages_of_every_size_up_to_the_largest() {
    let (mut a, mut b) = open();
    for size in [1, 16_383, 16_384, 16_385, 1_000_000, MESSAGE_BYTES_MAX] {
        let message: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0]).collect();
        a.send(&message);
        carry(&mut a, &mut b);
        assert!(b.taken() == [message], "{size}");
    }
    let larger = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(a.channel().seal(&larger), Err(ChannelError::TooLarge));
    // Nothing of it went out.
    a.send(b"still here");
    carry(&mut a, &mut b);
    assert_eq!(b.taken(), [b"still here"]);
}

#[test]
fn the_largest_evidence_fits() {
    // Both evidences of a side carry its boot's name; here it is as long as may be.
    let name: &'static str = "n".repeat(48 * 1024 - 32).leak();
    let (mut a, mut b) = (Boot::new(Role::Enclave, name).side(), sandbox().side());
    carry(&mut a, &mut b);
    assert_eq!(b.channel().peer(), name);
    let (mut a, mut b) = (enclave().side(), Boot::new(Role::Sandbox, name).side());
    carry_in(&mut a, &mut b, 1_000);
    assert_eq!(a.channel().peer(), name);
}

#[test]
fn a_message_right_behind_the_binding_is_not_lost() {
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    // Whoever opens first speaks at once; the other gets both in one piece.
    while !a.is_open() && !b.is_open() {
        b.receive(&std::mem::take(&mut a.output));
        if !b.is_open() {
            a.receive(&std::mem::take(&mut b.output));
        }
    }
    let (first, second) = if a.is_open() { (&mut a, &mut b) } else { (&mut b, &mut a) };
    first.send(b"at once");
    carry(first, second);
    assert_eq!(second.taken(), [b"at once"]);
}

#[test]
fn either_side_or_both_may_ask_for_new_evidence() {
    for (by_a, by_b) in [(true, false), (false, true), (true, true)] {
        let (mut a, mut b) = open();
        for round in 2..5 {
            if by_a {
                a.reattest();
            }
            if by_b {
                b.reattest();
            }
            carry(&mut a, &mut b);
            a.send(b"after");
            carry(&mut a, &mut b);
            assert_eq!(b.taken(), [b"after"]);
            for side in [&a, &b] {
                assert_eq!(side.asked.len(), round);
                let last = side.asked[round - 1];
                assert!(!side.asked[..round - 1].contains(&last), "the same evidence again");
            }
        }
    }
}

#[test]
fn what_was_under_way_when_a_binding_began_still_arrives() {
    let (mut a, mut b) = open();
    b.send(b"sent before it knew");
    a.reattest();
    a.receive(&std::mem::take(&mut b.output));
    assert!(a.is_binding());
    assert_eq!(a.taken(), [b"sent before it knew"]);
    carry(&mut a, &mut b);
    assert!(a.is_open() && b.is_open());
}

#[test]
fn a_side_without_evidence_waits_and_the_other_with_it() {
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    b.prove = |_, _| None;
    carry(&mut a, &mut b);
    assert!(a.is_binding() && b.is_binding());
    let asked = b.asked[0];
    b.evidence(&AUTHORITY.prove("boot_sandbox", &asked));
    carry(&mut a, &mut b);
    assert!(a.is_open() && b.is_open());
}

#[test]
fn evidence_that_was_not_asked_for_ends_the_binding() {
    let (mut a, mut b) = open();
    a.reattest();
    a.evidence(b"unasked");
    assert_eq!(a.error(), Some(ChannelError::UnexpectedEvidence));
    carry(&mut a, &mut b);
    assert_eq!(b.error(), Some(ChannelError::Closed));
}

#[test]
fn closing_delivers_what_was_sent_before() {
    let (mut a, mut b) = open();
    a.send(b"last words");
    let State::Open(channel) = std::mem::replace(&mut a.state, State::Closed) else { panic!() };
    a.output.extend(channel.close());
    // Whatever follows is dropped with the connection.
    a.output.extend(b"more");
    carry(&mut a, &mut b);
    assert_eq!(b.taken(), [b"last words"]);
    assert!(matches!(b.state, State::Closed));
}
