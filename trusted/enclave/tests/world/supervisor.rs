//! A supervisor's side of a sealed job.

use super::*;

pub fn seal_outcome(job: &SealedJob, key: &[u8; 32], outcome: &JobOutcome) -> SealedOutcome {
    seal_bytes(job, key, &wire::encode(outcome).unwrap())
}

pub fn seal_bytes(job: &SealedJob, key: &[u8; 32], msg: &[u8]) -> SealedOutcome {
    let aad = wire::encode(&job.header).unwrap();
    let ciphertext = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key))
        .encrypt(&Nonce::from([0; 12]), Payload { msg, aad: &aad })
        .unwrap();
    SealedOutcome { ciphertext }
}

pub fn answered(status: u16, body: Value) -> JobOutcome {
    JobOutcome {
        end: JobEnd::Response { status, body: body.to_string().into_bytes() },
        secret_seen: false,
        connected: true,
        bytes_out: 100,
        bytes_in: 100,
    }
}

pub fn ended(end: JobEnd, connected: bool) -> JobOutcome {
    JobOutcome { end, secret_seen: false, connected, bytes_out: 0, bytes_in: 0 }
}
