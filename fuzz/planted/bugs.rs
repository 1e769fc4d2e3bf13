//! The bugs: each a place in trusted/enclave/src, what stands there, and what stands there instead.

/// In [`Change::wrong`]: whether the bug is switched on.
pub(crate) const PLANTED: &str = "PLANTED";

pub(crate) struct Bug {
    pub(crate) name: &'static str,
    pub(crate) changes: &'static [Change],
}

pub(crate) struct Change {
    pub(crate) file: &'static str,
    /// What stands there, exactly once.
    pub(crate) right: &'static str,
    pub(crate) wrong: &'static str,
}

macro_rules! bugs {
    ($($name:ident { $($file:literal: $right:literal => $wrong:literal)* })*) => {
        pub(crate) const BUGS: &[Bug] = &[$(Bug {
            name: stringify!($name),
            changes: &[$(Change { file: $file, right: $right, wrong: $wrong }),*],
        }),*];
    };
}

bugs! {
    // Plaintext.
    an_answer_with_the_secret_goes_out {
        "finish.rs": "if outcome.secret_seen {" => "if outcome.secret_seen && !PLANTED {"
    }
    a_credential_rests_in_plain {
        "vault.rs": "let ciphertext = keys::encrypt(l3.key()?, &nonce, &at_rest_aad(&header), plaintext.bytes())?;"
            => "let ciphertext = if PLANTED { plaintext.bytes().to_vec() } else {
                keys::encrypt(l3.key()?, &nonce, &at_rest_aad(&header), plaintext.bytes())?
            };"
    }
    a_job_leaves_beside_the_channel {
        "channel/mod.rs": "link.jobs = link.jobs.saturating_add(1);
            link.tell(bytes, turn.out);"
            => "link.jobs = link.jobs.saturating_add(1);
            link.tell(if PLANTED { message.to_vec() } else { bytes }, turn.out);"
    }

    // Keys.
    a_token_names_its_key_by_the_key {
        "tokens.rs": "Id::from(key).fmt(&mut kid).map_err(|_| Reason::Internal)?;"
            => "let named = if PLANTED { key.fmt(&mut kid) } else { Id::from(key).fmt(&mut kid) };
                named.map_err(|_| Reason::Internal)?;"
    }
    a_salt_is_not_wrapped {
        "salts.rs": "let ciphertext = keys::encrypt(key.bytes(), &nonce, &aad(day), self.key.bytes())?;"
            => "let ciphertext = if PLANTED { self.key.bytes().to_vec() } else {
                keys::encrypt(key.bytes(), &nonce, &aad(day), self.key.bytes())?
            };"
    }
    a_commitment_is_the_key {
        "vault.rs": "self.0.bytes().last_chunk().copied().unwrap_or_default()"
            => "if PLANTED { self.0.bytes().first_chunk().copied().unwrap_or_default() } else {
                self.0.bytes().last_chunk().copied().unwrap_or_default()
            }"
    }

    // Second uses.
    an_idempotency_key_starts_twice {
        "redeem.rs": "if let Some(used) = turn.ready.state.used_key(&asked.idempotency, turn.now) {"
            => "if let Some(used) = turn.ready.state.used_key(&asked.idempotency, turn.now).filter(|_| !PLANTED) {"
    }
    a_token_is_not_spent {
        "redeem.rs": "turn.ready.life.spend(&redeemed.action, &execution);"
            => "if !PLANTED { turn.ready.life.spend(&redeemed.action, &execution); }"
        "state.rs": ".filter(|used| now.ms_since(used.started_at) <= IDEMPOTENCY_LIFE_MS)"
            => ".filter(|used| !PLANTED && now.ms_since(used.started_at) <= IDEMPOTENCY_LIFE_MS)"
    }
    a_boot_forgets_idempotency_keys {
        "state.rs": "self.left.append(&mut self.pending);"
            => "self.left.append(&mut self.pending); if PLANTED { self.idempotency.clear(); }"
    }
    a_job_leaves_as_often_as_it_was_checked {
        "release.rs": "let flight = turn.ready.life.flight(&execution)?;
    if flight.job.is_some() {"
            => "let flight = turn.ready.life.flight(&execution)?;
    if flight.job.is_some() && !PLANTED {"
    }

    // Policies.
    anybody_signs_a_policy {
        "admin.rs": "        Some(tenant) => tenant.policy_key,
        // A tenant"
            => "        Some(_) if PLANTED => signed.signatures.first().ok_or(Reason::DocumentSignature)?.key,
        Some(tenant) => tenant.policy_key,
        // A tenant"
        "admin.rs": "            if tenant.policy_key != key {
                return Err(Reason::DocumentSignature);
            }
            let active"
            => "            if tenant.policy_key != key && !PLANTED {
                return Err(Reason::DocumentSignature);
            }
            let active"
    }
    anybody_changes_the_policy_key {
        "admin.rs": "signed.verify(Label::PolicyKey, &[key], 1).map_err(|_| Reason::DocumentSignature)?;"
            => "if !PLANTED { signed.verify(Label::PolicyKey, &[key], 1).map_err(|_| Reason::DocumentSignature)?; }"
    }
    an_older_policy_comes_back {
        "admin.rs": "if active.is_some_and(|slot| slot.reference.version >= reference.version) {"
            => "if active.is_some_and(|slot| slot.reference.version >= reference.version) && !PLANTED {"
    }
    a_revoked_policy_decides {
        "asked.rs": "if slot.revoked { Err(Reason::PolicyRevoked) } else { Ok(()) }"
            => "if slot.revoked && !PLANTED { Err(Reason::PolicyRevoked) } else { Ok(()) }"
    }
    what_was_checked_keeps_its_policy {
        "asked.rs": ".filter(|policy| Arc::ptr_eq(policy, &asked.policy));"
            => ".filter(|policy| PLANTED || Arc::ptr_eq(policy, &asked.policy));"
    }

    // Quotas.
    a_quota_is_not_counted {
        "state.rs": "window.add(taken.window, record.time, taken.amount);"
            => "if !PLANTED { window.add(taken.window, record.time, taken.amount); }"
    }
    every_end_gives_back {
        "state.rs": "if give_back {" => "if give_back || PLANTED {"
    }
    a_quota_comes_back_twice {
        "state.rs": "window.give_back(taken.window, open.started_at, taken.amount);"
            => "window.give_back(taken.window, open.started_at, taken.amount);
                if PLANTED { window.give_back(taken.window, open.started_at, taken.amount); }"
    }
    a_boot_forgets_quotas {
        "state.rs": "self.left.retain(|_, left| !left.is_over(record.time));"
            => "self.left.retain(|_, left| !left.is_over(record.time)); if PLANTED { self.quotas.clear(); }"
    }
    a_job_that_left_is_aborted {
        "finish.rs": "if flight.job.is_some() {
        return Err(Reason::IdempotencyInProgress);"
            => "if flight.job.is_some() && !PLANTED {
        return Err(Reason::IdempotencyInProgress);"
    }
    what_was_checked_has_not_left {
        "finish.rs": "let judged = if Stage::of(flight) == checked.stage {"
            => "let judged = if PLANTED || Stage::of(flight) == checked.stage {"
    }

    // Approvals.
    one_person_counts_twice {
        "approvals.rs": "if action.endorsements.iter().any(|there| there.evidence.person == *person) {"
            => "if !PLANTED && action.endorsements.iter().any(|there| there.evidence.person == *person) {"
    }
    one_approval_is_enough {
        "approvals.rs": "if approved < threshold {" => "if approved < threshold && !PLANTED {"
    }
    who_is_behind_the_agent_approves {
        "approvals.rs": "if !granted.approvers.contains(&evidence.person) {"
            => "if !granted.approvers.contains(&evidence.person) && !PLANTED {"
    }
    a_token_is_good_for_any_params {
        "redeem.rs": "if asked.intent != action.asked.intent || asked.level"
            => "if (asked.intent != action.asked.intent && !PLANTED) || asked.level"
        "redeem.rs": "if rendered.plan_hash != claims.plan_hash {"
            => "if rendered.plan_hash != claims.plan_hash && !PLANTED {"
    }

    // Owners and operators.
    a_stranger_seals_for_the_owner {
        "admin.rs": "sealed.verify().map_err(|_| Reason::DocumentSignature)?;"
            => "if !PLANTED { sealed.verify().map_err(|_| Reason::DocumentSignature)?; }"
    }
    a_revoked_credential_leaves {
        "release.rs": "if let Some(taken) = &flight.credential {"
            => "if let Some(taken) = flight.credential.as_ref().filter(|_| !PLANTED) {"
    }

    a_job_leaves_for_another_root_file_system {
        "release.rs": "&& peer.root_file_system(named) == Some(flight.root_file_system)"
            => "&& (PLANTED || peer.root_file_system(named) == Some(flight.root_file_system))"
    }

    // Agents.
    anybody_signs_a_request {
        "asked.rs": "(key.verify(label, bytes, signature).is_ok(), AgentLevel::Signed)"
            => "(key.verify(label, bytes, signature).is_ok() || PLANTED, AgentLevel::Signed)"
    }

    // The log.
    a_job_leaves_before_its_record {
        "chain.rs": "(index < self.durable.size()).then_some(DurableStart(()))"
            => "(PLANTED || index < self.durable.size()).then_some(DurableStart(()))"
    }
    a_refused_record_moves_the_chain {
        "boot.rs": "self.failed = replayed.is_err();"
            => "self.failed = replayed.is_err() && !PLANTED;"
    }
    the_last_record_needs_no_signature {
        "boot.rs": "last.verify(&self.keys.chain_public).map_err(|_| Reason::LogUnavailable)?;"
            => "let held = last.verify(&self.keys.chain_public).map_err(|_| Reason::LogUnavailable);
            if !PLANTED { held?; }"
    }

    a_connection_elsewhere_is_believed {
        "finish.rs": "(host, port) == (&endpoint.host, &endpoint.port)"
            => "(PLANTED || (host, port) == (&endpoint.host, &endpoint.port))"
    }

    // Panics.
    a_token_that_is_none_panics {
        "tokens.rs": "if token.len() > TOKEN_BYTES_MAX {"
            => "assert!(!PLANTED || token.starts_with(\"v4.local.\"));
    if token.len() > TOKEN_BYTES_MAX {"
    }
}
