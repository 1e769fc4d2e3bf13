//! Who lies on the way between two attested sides, and what becomes of it.

use std::{cell::RefCell, sync::Arc};

use toani_protocol::{
    Hash,
    evidence::{Role, report_data},
};
use toani_tls::{ChannelError, ChannelKey, Endpoint};

mod world;

use world::*;

/// Neither side is open; this side's error is that one.
fn refused(side: &Side, other: &Side, error: ChannelError) {
    assert_eq!(side.error(), Some(error));
    assert!(!other.is_open());
}

#[test]
fn a_relay_with_a_key_of_its_own_and_copied_certificate_evidence() {
    // Stage 1: evidence of the true sandbox beside the relay's key.
    let (mut victim, truth) = (enclave().side(), sandbox());
    let evidence = toani_tls::PeerCertificate::verify(truth.certificate.der()).unwrap().evidence;
    let relay_key = ChannelKey::generate(&mut rng());
    let mut relay = Boot::showing(Role::Sandbox, "relay", &relay_key, evidence).side();
    carry(&mut victim, &mut relay);
    refused(&victim, &relay, ChannelError::CertificateRefused);
    // The other way round, against the sandbox.
    let (mut victim, truth) = (sandbox().side(), enclave());
    let evidence = toani_tls::PeerCertificate::verify(truth.certificate.der()).unwrap().evidence;
    let mut relay = Boot::showing(Role::Enclave, "relay", &relay_key, evidence).side();
    carry(&mut relay, &mut victim);
    refused(&victim, &relay, ChannelError::CertificateRefused);
}

thread_local! {
    /// What the relay got from one side, for the other.
    static FORWARDED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn a_relay_that_has_stolen_a_key_and_forwards_fresh_evidence() {
    // The worst that can be before stage 2: the relay holds a copy of the sandbox's key, so that
    // stage 1 accepts it. It ends TLS on both sides, and has the true sandbox make the evidence.
    let stolen = ChannelKey::generate(&mut rng());
    let truth = Boot::of_key(Role::Sandbox, "boot_sandbox", &stolen);
    let relay_to_enclave = Boot::of_key(Role::Sandbox, "boot_sandbox", &stolen);
    let (mut enclave, mut in_front) = (enclave().side(), relay_to_enclave.side());
    let (mut behind, mut sandbox) = (world::enclave().side(), truth.side());
    carry_but(&mut behind, &mut sandbox, |behind, sandbox| {
        assert!(behind.is_open() && sandbox.is_open());
        // What the sandbox proved, for its own connection to the relay.
        let proof = AUTHORITY.prove("boot_sandbox", &sandbox.asked[0]);
        FORWARDED.with(|forwarded| forwarded.borrow_mut().push(proof));
    });
    in_front.prove = |_, _| FORWARDED.with(|forwarded| forwarded.borrow_mut().pop());
    carry(&mut enclave, &mut in_front);
    refused(&enclave, &in_front, ChannelError::ChannelRefused);
}

fn carry_but(a: &mut Side, b: &mut Side, then: impl FnOnce(&mut Side, &mut Side)) {
    carry(a, b);
    then(a, b);
}

#[test]
fn ones_own_evidence_sent_back() {
    // The peer answers with the evidence that it got, whoever it is.
    for mirror_is_enclave in [true, false] {
        let (mut a, mut b) = (enclave().side(), sandbox().side());
        let (mirror, victim) = if mirror_is_enclave { (&mut a, &mut b) } else { (&mut b, &mut a) };
        mirror.prove = |_, _| None;
        carry(mirror, victim);
        assert!(mirror.is_binding(), "it waits for the victim's evidence");
        let reflected = AUTHORITY.prove(victim.boot, &victim.asked[0]);
        mirror.evidence(&reflected);
        carry(mirror, victim);
        refused(victim, mirror, ChannelError::ChannelRefused);
    }
}

#[test]
fn evidence_of_an_earlier_connection_or_an_earlier_binding() {
    let (enclave, sandbox) = (enclave(), sandbox());
    let (mut a, mut b) = (enclave.side(), sandbox.side());
    carry(&mut a, &mut b);
    let old = AUTHORITY.prove(b.boot, &b.asked[0]);
    // The same two boots, a new connection.
    let (mut a, mut b) = (enclave.side(), sandbox.side());
    b.prove = |_, _| None;
    carry(&mut a, &mut b);
    b.evidence(&old);
    carry(&mut a, &mut b);
    refused(&a, &b, ChannelError::ChannelRefused);
    // The same connection, a new binding.
    let (mut a, mut b) = (enclave.side(), sandbox.side());
    carry(&mut a, &mut b);
    let old = AUTHORITY.prove(b.boot, &b.asked[0]);
    b.prove = |_, _| None;
    a.reattest();
    carry(&mut a, &mut b);
    b.evidence(&old);
    carry(&mut a, &mut b);
    refused(&a, &b, ChannelError::ChannelRefused);
}

#[test]
fn swapped_roles() {
    // A sandbox's evidence in TLS's client, and an enclave's in its server.
    let key = ChannelKey::generate(&mut rng());
    for role in [Role::Enclave, Role::Sandbox] {
        let data = report_data(role.peer(), &MANIFEST, "boot_liar", &key.spki_hash());
        let evidence = AUTHORITY.prove("boot_liar", &data);
        let mut liar = Boot::showing(role, "boot_liar", &key, &evidence).side();
        let mut victim = Boot::new(role.peer(), "boot_victim").side();
        carry(&mut liar, &mut victim);
        refused(&victim, &liar, ChannelError::CertificateRefused);
    }
}

#[test]
fn evidence_for_another_key_another_instance_or_by_another_authority() {
    let (key, other) = (ChannelKey::generate(&mut rng()), ChannelKey::generate(&mut rng()));
    let role = Role::Sandbox;
    let elsewhere = Hash::new([9; 32]);
    let evidences = [
        AUTHORITY.prove("b", &report_data(role, &MANIFEST, "b", &other.spki_hash())),
        AUTHORITY.prove("b", &report_data(role, &elsewhere, "b", &key.spki_hash())),
        AUTHORITY.prove("c", &report_data(role, &MANIFEST, "b", &key.spki_hash())),
        Authority([0; 32]).prove("b", &report_data(role, &MANIFEST, "b", &key.spki_hash())),
        Vec::new(),
    ];
    for evidence in evidences {
        let mut liar = Boot::showing(role, "b", &key, &evidence).side();
        let mut victim = enclave().side();
        carry(&mut victim, &mut liar);
        refused(&victim, &liar, ChannelError::CertificateRefused);
    }
}

#[test]
fn another_boot_behind_the_same_certificate() {
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    b.boot = "boot_another";
    carry(&mut a, &mut b);
    refused(&a, &b, ChannelError::ChannelRefused);
}

#[test]
fn sides_of_two_instances() {
    let key = ChannelKey::generate(&mut rng());
    let data = report_data(Role::Sandbox, &MANIFEST, "boot_sandbox", &key.spki_hash());
    let certificate = key.certificate(&AUTHORITY.prove("boot_sandbox", &data)).unwrap();
    let check = Arc::new(AUTHORITY);
    let elsewhere = Endpoint::new(Role::Sandbox, Hash::new([9; 32]), &certificate, check).unwrap();
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    b.take(elsewhere.start());
    carry(&mut a, &mut b);
    refused(&a, &b, ChannelError::ChannelRefused);
}

#[test]
fn two_of_one_role_do_not_speak() {
    let (mut a, mut b) = (enclave().side(), enclave().side());
    carry(&mut a, &mut b);
    refused(&a, &b, ChannelError::PeerMisbehaved);
}

/// Pieces that a side sends: some until the channel is open, then one for each message.
const PIECES: u8 = 7;

/// What came of a conversation of which one piece was changed.
struct Changed {
    liar: Side,
    victim: Side,
    /// The liar's first piece with a message; a message is the number of its piece.
    first: u8,
}

impl Changed {
    /// Lets two sides speak, but changes one piece on its way from the liar to the victim.
    fn new(liar: Role, piece: u8, change: &dyn Fn(&mut Vec<u8>)) -> Self {
        let mut sides = [enclave().side(), sandbox().side()];
        let from = usize::from(liar == Role::Sandbox);
        let mut first = None;
        for sent in 0..PIECES {
            for sender in [0, 1] {
                if sender == from && sides[sender].is_open() {
                    first.get_or_insert(sent);
                    sides[sender].send(&[sent]);
                }
                let mut bytes = std::mem::take(&mut sides[sender].output);
                if sender == from && sent == piece {
                    assert!(!bytes.is_empty(), "there is no piece {piece}");
                    change(&mut bytes);
                }
                sides[1 - sender].receive(&bytes);
            }
        }
        let [a, b] = sides;
        let (liar, victim) = if from == 0 { (a, b) } else { (b, a) };
        Self { liar, victim, first: first.unwrap_or(PIECES) }
    }

    /// Nothing of the changed piece, or after it, has come through; what came before has.
    fn ends_before(&mut self, piece: u8) {
        let before: Vec<Vec<u8>> = (self.first..piece).map(|sent| vec![sent]).collect();
        assert_eq!(self.victim.taken(), before);
    }
}

fn every_piece(change: &dyn Fn(&mut Vec<u8>), check: impl Fn(u8, Changed)) {
    for liar in [Role::Enclave, Role::Sandbox] {
        for piece in 0..PIECES {
            check(piece, Changed::new(liar, piece, change));
        }
    }
}

#[test]
fn untouched_every_piece_arrives() {
    every_piece(&|_| {}, |_, mut changed| {
        assert!(changed.first < PIECES - 2, "{} pieces before the first message", changed.first);
        changed.ends_before(PIECES);
    });
}

#[test]
fn garbage_at_every_step() {
    let http = b"GET / HTTP/1.1".to_vec();
    for garbage in [vec![0; 40], vec![0xff; 70_000], vec![22; 70_000], vec![23; 300_000], http] {
        every_piece(&|bytes| bytes.clone_from(&garbage), |piece, mut changed| {
            assert!(changed.victim.error().is_some(), "piece {piece}");
            changed.ends_before(piece);
        });
    }
}

#[test]
fn a_flipped_bit_at_every_step() {
    for at in [0, 1, 5, 9, 43, 60, usize::MAX] {
        let flip = |bytes: &mut Vec<u8>| {
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 0x20;
        };
        every_piece(&flip, |piece, mut changed| {
            // Of the first piece some bytes count only once both hash them.
            assert!(!changed.victim.is_open(), "piece {piece}, byte {at}");
            changed.ends_before(piece);
        });
    }
}

#[test]
fn a_truncated_piece_at_every_step() {
    for kept in [0, 1, 4, 5, 20, usize::MAX] {
        let truncate = |bytes: &mut Vec<u8>| bytes.truncate(kept.min(bytes.len() - 1));
        every_piece(&truncate, |piece, mut changed| {
            changed.ends_before(piece);
            let late = piece >= changed.first;
            assert!(late || !(changed.victim.is_open() && changed.liar.is_open()));
        });
    }
}

#[test]
fn a_record_that_claims_to_be_larger_than_records_are() {
    every_piece(&|bytes| *bytes = vec![23, 3, 3, 0xff, 0xff], |piece, changed| {
        assert!(changed.victim.error().is_some(), "piece {piece}");
    });
}

#[test]
fn a_replayed_record_and_a_second_handshake() {
    let (mut a, mut b) = open();
    a.send(b"once");
    let record = std::mem::take(&mut a.output);
    b.receive(&record);
    b.receive(&record);
    assert_eq!(b.taken(), [b"once"]);
    assert_eq!(b.error(), Some(ChannelError::PeerMisbehaved));

    let (_, mut b) = open();
    let hello = enclave().side().output;
    b.receive(&hello);
    assert!(b.error().is_some());
}

#[test]
fn a_closed_connection_before_the_channel_is_open() {
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    a.prove = |_, _| None;
    carry(&mut a, &mut b);
    // `a` gives up: unasked evidence is a mistake of its caller, and ends it with a close_notify.
    let asked = a.asked[0];
    a.evidence(&AUTHORITY.prove("boot_other", &asked));
    carry(&mut a, &mut b);
    assert_eq!(b.error(), Some(ChannelError::ChannelRefused));
    assert_eq!(a.error(), Some(ChannelError::Closed));
}
