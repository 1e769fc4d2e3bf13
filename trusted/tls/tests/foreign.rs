//! Peers that are not ours: rustls with ring, and OpenSSL.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    time::Duration,
};

use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion, version};
use toani_protocol::evidence::Role;
use toani_tls::{ChannelError, ChannelKey};

mod stranger;
mod world;

use stranger::*;
use world::*;

const NONCE: [u8; 32] = [0x33; 32];

fn nonce() -> Vec<u8> {
    frame(1, &NONCE)
}

#[test]
fn both_suites_both_ways_with_a_binding_done_by_hand() {
    for suite in
        [CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256]
    {
        for role in [Role::Enclave, Role::Sandbox] {
            let mut side = Boot::new(role.peer(), "boot_ours").side();
            let mut stranger = Offer { suites: &[suite], ..Offer::default() }.stranger(role);
            stranger.speak(&mut side).unwrap();
            assert!(side.is_binding(), "{:?}", side.error());
            assert_eq!(stranger.tls.negotiated_cipher_suite().unwrap().suite(), suite);

            stranger.send(&nonce());
            stranger.speak(&mut side).unwrap();
            // The formula over the exporter of ring's side is what our side was asked to prove.
            let transcript = stranger.transcript(role, &side);
            assert_eq!(side.asked, [proven(role.peer(), &transcript)]);
            let evidence = AUTHORITY.prove(STRANGER, &proven(role, &transcript));
            stranger.send(&frame(2, &evidence));
            stranger.speak(&mut side).unwrap();
            assert_eq!(stranger.frames().last().unwrap().0, 3, "our side has bound");
            assert!(!side.is_open(), "the stranger has not");
            stranger.send(&frame(3, &[]));
            stranger.send(&frame(4, b"before a new key"));
            stranger.tls.refresh_traffic_keys().unwrap();
            stranger.send(&frame(4, &[7; 40_000]));
            stranger.speak(&mut side).unwrap();
            assert_eq!(side.channel().peer(), STRANGER);
            assert_eq!(side.taken(), [b"before a new key".to_vec(), vec![7; 40_000]]);

            side.send(b"under a new key");
            stranger.speak(&mut side).unwrap();
            assert_eq!(stranger.frames().last().unwrap().1, b"under a new key");
        }
    }
}

#[test]
fn versions_suites_and_groups_that_are_not_spoken_here() {
    let old: &[&SupportedProtocolVersion] = &[&version::TLS12];
    let offers = [
        Offer { versions: old, suites: TLS12_SUITES, ..Offer::default() },
        Offer { suites: &[CipherSuite::TLS13_AES_128_GCM_SHA256], ..Offer::default() },
        Offer { groups: &[NamedGroup::secp256r1], ..Offer::default() },
    ];
    for offer in offers {
        let mut side = sandbox().side();
        let mut client = offer.stranger(Role::Enclave);
        assert!(client.speak(&mut side).is_err());
        assert_eq!(side.error(), Some(ChannelError::PeerIncompatible));

        // Our client gets an alert, or an answer that it did not offer.
        let mut side = enclave().side();
        let mut server = offer.stranger(Role::Sandbox);
        assert!(server.speak(&mut side).is_err());
        assert!(!side.is_binding() && !side.is_open());
    }
}

#[test]
fn certificates_that_are_missing_too_many_or_anothers() {
    let thief = ChannelKey::generate(&mut rng());
    let cases = [
        (Offer { certificates: 0, ..Offer::default() }, ChannelError::NoCertificate),
        (Offer { certificates: 2, ..Offer::default() }, ChannelError::CertificateShape),
        (Offer { signs_with: Some(&thief), ..Offer::default() }, ChannelError::CertificateShape),
        (Offer { foreign_shape: true, ..Offer::default() }, ChannelError::CertificateShape),
    ];
    for (offer, error) in cases {
        let mut side = sandbox().side();
        let mut client = offer.stranger(Role::Enclave);
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        let _ = client.speak(&mut side);
        assert_eq!(side.error(), Some(error));
        if offer.certificates > 0 {
            let mut side = enclave().side();
            let mut server = offer.stranger(Role::Sandbox);
            assert!(server.speak(&mut side).is_err());
            assert_eq!(side.error(), Some(error));
        }
    }
}

#[test]
fn frames_out_of_turn() {
    let evidence = || frame(2, b"evidence");
    let cases = [
        (vec![frame(4, b"application data")], ChannelError::UnexpectedMessage),
        (vec![nonce(), frame(4, b"application data")], ChannelError::UnexpectedMessage),
        (vec![frame(3, &[])], ChannelError::PeerMisbehaved),
        (vec![[nonce(), frame(3, &[])].concat()], ChannelError::PeerMisbehaved),
        (vec![nonce(), frame(3, &[]), frame(3, &[])], ChannelError::PeerMisbehaved),
        (vec![nonce(), frame(3, &[]), frame(4, b"data")], ChannelError::UnexpectedMessage),
        (vec![evidence()], ChannelError::PeerMisbehaved),
        (vec![nonce(), evidence()], ChannelError::ChannelRefused),
        (vec![nonce(), nonce()], ChannelError::PeerMisbehaved),
        (vec![frame(1, &NONCE[1..])], ChannelError::PeerMisbehaved),
        (vec![frame(1, &[0; 33])], ChannelError::TooLarge),
        (vec![frame(2, &vec![0; 48 * 1024 + 1])], ChannelError::TooLarge),
        (vec![frame(9, &[])], ChannelError::PeerMisbehaved),
    ];
    for (frames, error) in cases {
        for role in [Role::Enclave, Role::Sandbox] {
            let mut side = Boot::new(role.peer(), "boot_ours").side();
            let mut stranger = Offer::default().stranger(role);
            stranger.speak(&mut side).unwrap();
            for frame in &frames {
                stranger.send(frame);
                // In the end it hears a close_notify; what it makes of it is its own business.
                let _ = stranger.speak(&mut side);
            }
            assert_eq!(side.error(), Some(error), "{:?}", frames.last());
            assert!(side.messages.is_empty());
        }
    }
}

#[test]
fn messages_during_a_new_binding() {
    let (mut side, mut stranger) = bound();
    side.reattest();
    // Before the stranger's own nonce they were under way; after it they are a breach.
    stranger.send(&frame(4, b"under way"));
    stranger.speak(&mut side).unwrap();
    assert_eq!(side.taken(), [b"under way"]);
    stranger.send(&nonce());
    stranger.send(&frame(4, b"too late"));
    let _ = stranger.speak(&mut side);
    assert_eq!(side.error(), Some(ChannelError::UnexpectedMessage));
    assert!(side.messages.is_empty());
}

#[test]
fn a_close_in_the_middle_of_a_message() {
    let (mut side, mut stranger) = bound();
    let whole = frame(4, b"a message");
    stranger.send(&whole[..whole.len() - 1]);
    stranger.tls.send_close_notify();
    let _ = stranger.speak(&mut side);
    assert_eq!(side.error(), Some(ChannelError::PeerMisbehaved));
    assert!(side.messages.is_empty());
}

/// Runs `openssl s_client` against our server. Answers with how our side ended.
fn openssl(arguments: &[&str]) -> Option<ChannelError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut side = sandbox().side();
    let mut bytes = [0; 4096];
    while side.error().is_none() {
        let read = socket.read(&mut bytes).unwrap();
        if read == 0 {
            break;
        }
        side.receive(&bytes[..read]);
        // The client may be gone already.
        let _ = socket.write_all(&std::mem::take(&mut side.output));
    }
    drop(socket);
    let status = client.wait().unwrap();
    assert!(!status.success() || side.error() == Some(ChannelError::NoCertificate));
    side.error()
}

#[test]
fn openssl_is_refused_with_tls_1_2_and_with_another_suite() {
    assert_eq!(openssl(&["-tls1_2"]), Some(ChannelError::PeerIncompatible));
    let suite = ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"];
    assert_eq!(openssl(&suite), Some(ChannelError::PeerIncompatible));
    // With ours it comes as far as a client without a certificate can.
    for ours in ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let suite = ["-tls1_3", "-ciphersuites", ours];
        assert_eq!(openssl(&suite), Some(ChannelError::NoCertificate));
    }
}
