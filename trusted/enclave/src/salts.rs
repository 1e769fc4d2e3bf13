//! Users in records: keyed hashes under a salt of the tenant and the day. The host keeps the salts
//! wrapped. Without a day's salt nobody can say whose its hashes are, and after a record `forgotten`
//! the enclave opens none.

use alloc::{collections::BTreeMap, vec::Vec};

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use toani_protocol::{
    Hash, Reason, TenantId, UserId,
    limits::TENANTS_MAX,
    record::{About, RecordKind},
    wire::{Answer, Effect},
};

use crate::{
    keys::{self, CryptoError, NONCE_BYTES},
    ready::{Ready, Turn},
    root::Root,
    secret::Secret,
    state::State,
};

/// A tenant's salt of one day.
#[derive(Debug)]
pub(crate) struct Salt {
    day: u64,
    key: Secret<32>,
}

#[derive(Serialize, Deserialize)]
struct WrappedSalt {
    day: u64,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

fn aad(day: u64) -> Vec<u8> {
    keys::fields(&[b"toani/v1/salt", &day.to_be_bytes()])
}

impl Salt {
    fn wrap(
        &self,
        root: &Root,
        tenant: &TenantId,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        let (day, nonce) = (self.day, keys::random(rng));
        let key = root.salts(tenant)?;
        let ciphertext = keys::encrypt(key.bytes(), &nonce, &aad(day), self.key.bytes())?;
        Ok(postcard::to_allocvec(&WrappedSalt { day, nonce, ciphertext })?)
    }

    fn unwrap(root: &Root, tenant: &TenantId, wrapped: &[u8]) -> Result<Self, CryptoError> {
        let WrappedSalt { day, nonce, ciphertext } = postcard::from_bytes(wrapped)?;
        let (wrapping, mut key) = (root.salts(tenant)?, Secret::zeroed());
        keys::decrypt_into(wrapping.bytes(), &nonce, &aad(day), &ciphertext, key.bytes_mut())?;
        Ok(Self { day, key })
    }

    fn hash(&self, user: &UserId) -> Result<Hash, CryptoError> {
        keys::keyed_hash(self.key.bytes(), &[b"toani/v1/user", user.as_str().as_bytes()])
    }
}

/// The salts that the host gives back at boot, but for those of days that are forgotten.
pub(crate) fn restore(
    root: &Root,
    state: &State,
    salts: &[(TenantId, Vec<u8>)],
) -> BTreeMap<TenantId, Salt> {
    let salts = salts.iter().take(TENANTS_MAX).filter_map(|(tenant, wrapped)| {
        let salt = Salt::unwrap(root, tenant, wrapped).ok()?;
        (!state.has_forgotten(tenant, salt.day)).then(|| (tenant.clone(), salt))
    });
    salts.collect()
}

/// The hash of a claimed user, now. The day's first use of a tenant makes the day's salt.
pub(crate) fn user_hash(
    turn: &mut Turn<'_>,
    tenant: &TenantId,
    user: &UserId,
) -> Result<Hash, Reason> {
    let day = turn.now.day();
    let Ready { keys, life, state, .. } = &mut *turn.ready;
    if life.salts.get(tenant).is_none_or(|salt| salt.day != day) {
        let salt = Salt { day, key: Secret::filled(|bytes| turn.rng.fill_bytes(bytes)) };
        // What is left of a day that is forgotten dies with the boot.
        if !state.has_forgotten(tenant, day) {
            let wrapped = salt.wrap(&keys.root, tenant, turn.rng)?;
            turn.out.push(Effect::PutSalt { tenant: tenant.clone(), day, wrapped });
        }
        life.salts.insert(tenant.clone(), salt);
    }
    Ok(life.salts.get(tenant).ok_or(Reason::Internal)?.hash(user)?)
}

/// The hash under which a user stands in the records of a day, by the salt that the host kept.
pub(crate) fn of_day(
    ready: &Ready,
    tenant: &TenantId,
    day: u64,
    user: &UserId,
    wrapped: &[u8],
) -> Result<Answer, Reason> {
    ready.state.tenant(tenant)?;
    if ready.state.has_forgotten(tenant, day) {
        return Err(Reason::DayForgotten);
    }
    let salt = Salt::unwrap(&ready.keys.root, tenant, wrapped).ok();
    let salt = salt.filter(|salt| salt.day == day).ok_or(Reason::DayUnknown)?;
    Ok(Answer::UserHash { hash: salt.hash(user)? })
}

/// Forgets a tenant's salts of a day and all days before. That is final.
pub(crate) fn forget(
    turn: &mut Turn<'_>,
    tenant: TenantId,
    through: u64,
) -> Result<Answer, Reason> {
    turn.ready.state.tenant(&tenant)?;
    if through > turn.now.day() {
        return Err(Reason::DayUnknown);
    }
    if !turn.ready.state.has_forgotten(&tenant, through) {
        let about = About { tenant: Some(tenant.clone()), day: Some(through), ..About::default() };
        turn.write(RecordKind::Forgotten, about, None)?;
    }
    let salts = &mut turn.ready.life.salts;
    if salts.get(&tenant).is_some_and(|salt| salt.day <= through) {
        salts.remove(&tenant);
    }
    Ok(Answer::Done)
}
