//! What a stranger sends to an attested side before anyone has been verified.

use std::sync::Arc;

use toani_protocol::{
    Hash,
    evidence::{ReportData, Role},
};
use toani_tls::{ChannelKey, Endpoint, Handshake, Next, PeerCertificate, PeerCheck, Refused};

use super::{Target, signed::nothing_else, target, world::rng};

pub(super) fn peer_certificate() -> Target {
    let key = ChannelKey::generate(&mut rng());
    let of_size = |bytes: usize| key.certificate(&vec![7; bytes]).unwrap().der().to_vec();
    let all = [0, 20, 100, 200, 300, 5_000].map(of_size).to_vec();
    nothing_else("peer_certificate", 2, all, |bytes| PeerCertificate::verify(bytes).is_some())
}

/// No peer is good enough.
struct Nobody;

impl PeerCheck for Nobody {
    type Peer = ();

    fn certificate(&self, _: Role, _: &PeerCertificate<'_>) -> Result<(), Refused> {
        Err(Refused)
    }

    fn channel(
        &self,
        _: Role,
        _: &PeerCertificate<'_>,
        _: &ReportData,
        _: &[u8],
    ) -> Result<(), Refused> {
        Err(Refused)
    }
}

fn endpoint(role: Role) -> Endpoint<Nobody> {
    let certificate = ChannelKey::generate(&mut rng()).certificate(b"evidence").unwrap();
    Endpoint::new(role, Hash::ZERO, &certificate, Arc::new(Nobody)).unwrap()
}

fn started(endpoint: &Endpoint<Nobody>) -> (Handshake<Nobody>, Vec<u8>) {
    let step = endpoint.start().unwrap();
    match step.next {
        Next::Handshake(handshake) => (handshake, step.output),
        other => unreachable!("{other:?}"),
    }
}

/// Whatever comes first, to either side: it goes on with the handshake or ends it, and no more.
pub(super) fn first_flight() -> Target {
    let (client, server) = (endpoint(Role::Enclave), endpoint(Role::Sandbox));
    let (_, hello) = started(&client);
    let answer = started(&server).0.receive(&hello).unwrap().output;
    target("first_flight", 50, vec![hello, answer], move |bytes| {
        for side in [&client, &server] {
            if let Ok(step) = started(side).0.receive(bytes) {
                assert!(matches!(step.next, Next::Handshake(_)), "{:?}", step.next);
            }
        }
    })
}
