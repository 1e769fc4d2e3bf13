//! The enclave's side of the seal, written here a second time, and attacks on it.

use hpke::{OpModeS, aead::AeadCtxS};
use toani_protocol::{
    ids::{BootId, ExecutionId},
    job::JobEnd,
};

use super::*;

type Sender = AeadCtxS<AesGcm256, HkdfSha256, Kem>;

struct Rng;

impl hpke::rand_core::TryRng for Rng {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(getrandom::u32().unwrap())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(getrandom::u64().unwrap())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(out).unwrap();
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Rng {}

fn header(execution: u8) -> JobHeader {
    JobHeader {
        instance: Hash::of(b"instance"),
        boot: BootId::from_random([1; 16]),
        execution: ExecutionId::from_random([execution; 16]),
        jti: Hash::of(b"jti"),
    }
}

fn seal(public: [u8; 32], header: &JobHeader) -> (SealedJob, Sender) {
    let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&public).unwrap();
    let (encapsulated, mut context) = hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, Kem>(
        &OpModeS::Base,
        &key,
        &info(header),
        &mut Rng,
    )
    .unwrap();
    let job = Job { plan: b"plan".to_vec(), credential: b"secret".to_vec() };
    let aad = wire::encode(header).unwrap();
    let ciphertext = context.seal(&wire::encode(&job).unwrap(), &aad).unwrap();
    let sealed = SealedJob {
        header: header.clone(),
        encapsulated: encapsulated.to_bytes().to_vec(),
        ciphertext,
    };
    (sealed, context)
}

#[test]
fn a_job_opens_once_and_its_outcome_returns() {
    let key = JobKey::generate().unwrap();
    let (sealed, context) = seal(key.public(), &header(1));
    let open = key.open(&sealed).unwrap();
    assert_eq!(open.job.credential, b"secret");
    assert_eq!(open.job.plan, b"plan");

    let outcome = JobOutcome {
        end: JobEnd::TlsRefused,
        secret_seen: false,
        connected: true,
        bytes_out: 1,
        bytes_in: 2,
    };
    let answer = open.answer.seal(&outcome).unwrap();
    let mut exported = [0; 32];
    context.export(OUTCOME_EXPORT, &mut exported).unwrap();
    let cipher = Aes256Gcm::new_from_slice(&exported).unwrap();
    let payload = Payload { msg: &answer.ciphertext, aad: &wire::encode(&header(1)).unwrap() };
    let plaintext = cipher.decrypt(&Nonce::from([0; 12]), payload).unwrap();
    assert_eq!(wire::decode::<JobOutcome>(&plaintext, 1024).unwrap(), outcome);

    assert_eq!(key.open(&sealed).unwrap_err(), Refusal::SeenBefore);
    // Sealed anew, it is the same job.
    let (again, _) = seal(key.public(), &header(1));
    assert_eq!(key.open(&again).unwrap_err(), Refusal::SeenBefore);
}

#[test]
fn another_life_or_header_does_not_open() {
    let key = JobKey::generate().unwrap();
    let (sealed, _) = seal(JobKey::generate().unwrap().public(), &header(1));
    assert_eq!(key.open(&sealed).unwrap_err(), Refusal::NotForUs);

    let (sealed, _) = seal(key.public(), &header(1));
    let changes: [fn(&mut JobHeader); 4] = [
        |header| header.instance = Hash::ZERO,
        |header| header.boot = BootId::from_random([9; 16]),
        |header| header.execution = ExecutionId::from_random([9; 16]),
        |header| header.jti = Hash::ZERO,
    ];
    for change in changes {
        let mut other = sealed.clone();
        change(&mut other.header);
        assert_eq!(key.open(&other).unwrap_err(), Refusal::NotForUs);
    }
    assert!(key.open(&sealed).is_ok());
}

#[test]
fn every_changed_bit_is_refused() {
    let key = JobKey::generate().unwrap();
    let (sealed, _) = seal(key.public(), &header(1));
    for at in 0..sealed.ciphertext.len() * 8 {
        let mut other = sealed.clone();
        other.ciphertext[at / 8] ^= 1 << (at % 8);
        assert_eq!(key.open(&other).unwrap_err(), Refusal::NotForUs, "{at}");
    }
    for cut in 0..sealed.ciphertext.len() {
        let mut other = sealed.clone();
        other.ciphertext.truncate(cut);
        assert_eq!(key.open(&other).unwrap_err(), Refusal::NotForUs, "{cut}");
    }
    for encapsulated in [vec![], vec![0; 32], vec![0xff; 32], vec![1; 33], vec![7; 4096]] {
        let other = SealedJob { encapsulated, ..sealed.clone() };
        assert_eq!(key.open(&other).unwrap_err(), Refusal::NotForUs);
    }
}

#[test]
fn a_full_memory_refuses() {
    let mut key = JobKey::generate().unwrap();
    key.seen_max = 2;
    for execution in 1..=2 {
        assert!(key.open(&seal(key.public(), &header(execution)).0).is_ok());
    }
    let refused = |execution| key.open(&seal(key.public(), &header(execution)).0).unwrap_err();
    assert_eq!(refused(3), Refusal::MemoryFull);
    assert_eq!(refused(1), Refusal::SeenBefore);
}
