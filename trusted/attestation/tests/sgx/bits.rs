//! Every single bit of SGX evidence that is signed, flipped.
//!
//! In a quote everything is: header and body by the attestation key; that key, with the quoting
//! enclave's authentication data, by the quoting enclave's report; that report by the PCK; the
//! certificates by their issuers, and their base64 has one form. Lengths and types in between have
//! one accepted value. So no flip at all is accepted.
//!
//! What may differ all the same is not a bit: line breaks in the certificates, and the second form
//! that any ECDSA signature has. That is why a quote's bytes are no identity.

use crate::world::*;
use toani_attestation::SgxEvidence;
use toani_protocol::sign::Bytes;
use toani_simulator::Platform;

/// Header, body, signature length, signature, attestation key, QE report, its signature, QE
/// authentication data and the two lengths around it: what comes before the certificates.
const BEFORE_CERTIFICATES: usize = 48 + 384 + 4 + 64 + 64 + 384 + 64 + 2 + 32 + 2 + 4;

type Part = for<'a> fn(&'a mut SgxEvidence) -> &'a mut Bytes;

/// The flips of a part that are accepted.
fn accepted(part: Part, flips: &[(usize, u8)]) -> Vec<(usize, u8)> {
    let evidence = authority().sgx_evidence(&Platform::number(1), &report_body(), NOW).unwrap();
    assert!(verify(&evidence).is_ok());
    let halves = flips.chunks(flips.len().div_ceil(2));
    std::thread::scope(|scope| {
        let threads: Vec<_> = halves
            .map(|flips| {
                let mut evidence = evidence.clone();
                scope.spawn(move || {
                    let mut accepted = Vec::new();
                    for (byte, bit) in flips {
                        part(&mut evidence).0[*byte] ^= 1 << bit;
                        if verify(&evidence).is_ok() {
                            accepted.push((*byte, *bit));
                        }
                        part(&mut evidence).0[*byte] ^= 1 << bit;
                    }
                    accepted
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn every_bit(bytes: std::ops::Range<usize>) -> Vec<(usize, u8)> {
    bytes.flat_map(|byte| (0..8).map(move |bit| (byte, bit))).collect()
}

/// One bit of each byte, in turn.
fn a_bit_of_each(bytes: std::ops::Range<usize>) -> Vec<(usize, u8)> {
    bytes.map(|byte| (byte, u8::try_from(byte % 8).unwrap())).collect()
}

#[test]
fn no_bit_of_a_quote_can_be_flipped() {
    let quote = authority().quote(&Platform::number(1), &report_body()).unwrap();
    let mut flips = every_bit(0..BEFORE_CERTIFICATES);
    flips.extend(a_bit_of_each(BEFORE_CERTIFICATES..quote.len()));
    assert_eq!(accepted(|of| &mut of.quote, &flips), []);
}

#[test]
fn no_bit_of_collateral_can_be_flipped() {
    let whole = authority().sgx_evidence(&Platform::number(1), &report_body(), NOW).unwrap();
    let parts: [Part; 9] = [
        |of| &mut of.collateral.root,
        |of| &mut of.collateral.root_crl,
        |of| &mut of.collateral.pck_crl,
        |of| &mut of.collateral.tcb_info_signer,
        |of| &mut of.collateral.tcb_info,
        |of| &mut of.collateral.tcb_info_signature,
        |of| &mut of.collateral.qe_identity_signer,
        |of| &mut of.collateral.qe_identity,
        |of| &mut of.collateral.qe_identity_signature,
    ];
    for part in parts {
        let length = part(&mut whole.clone()).0.len();
        let flips: Vec<_> = a_bit_of_each(0..length).into_iter().step_by(5).collect();
        assert_eq!(accepted(part, &flips), []);
    }
}
