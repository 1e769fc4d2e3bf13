//! `toani init`: who is who at the start.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::json;
use toani_protocol::{
    Hash, TenantId, canonical,
    instance::{Manifest, ManifestFormat, SgxPolicy},
    sign::{Bytes, PublicKey},
    trust::{IntakeKey, LogTrust, TrustFile, TrustFormat},
};

use crate::{
    home::{self, Home},
    keys,
    output::Output,
    serve::programs,
    tee,
};

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Origin of the instance's log; by default a random name.
    #[arg(long)]
    origin: Option<String>,
    /// A simulated TEE, which proves nothing: for trying out, where there is no SGX.
    #[arg(long)]
    simulator: bool,
    /// Sandboxes prove themselves under AMD's roots, as those of `toani serve --sandbox vm --snp` do,
    /// also where the enclave is simulated: no machine has both SGX and SEV-SNP. Not yet run on
    /// SEV-SNP hardware.
    #[arg(long)]
    snp: bool,
    /// The simulated machine's folder, which holds its secret; by default one of this user's.
    #[arg(long, requires = "simulator")]
    machine: Option<PathBuf>,
    /// Where the plane's programs are; by default beside this one.
    #[arg(long)]
    programs: Option<PathBuf>,
}

pub(crate) async fn run(command: Init, home: &Home, output: &Output) -> anyhow::Result<()> {
    if home.trust_file().exists() {
        bail!("{} holds an instance already; choose another --home", home.root().display());
    }
    let programs = programs(command.programs)?;
    let (sgx_roots, snp_roots) = if command.simulator {
        let machine = tee::simulated_machine(&programs, command.machine.clone())?;
        let amd = || tee::vendor_roots().1;
        (vec![machine.sgx_root], if command.snp { amd() } else { vec![machine.snp_root] })
    } else {
        tee::require_sgx()?;
        tee::vendor_roots()
    };
    let operator = keys::new_ed25519(&home.operator_key())?;
    let policy = keys::new_ed25519(&home.policy_key())?;
    let owner = keys::new_ed25519(&home.owner_key())?;
    let nonce = keys::random::<32>()?;
    let short = HEXLOWER.encode(nonce.first_chunk::<4>().context("32 bytes")?);
    let manifest = Manifest {
        format: ManifestFormat::V1,
        sgx_roots: sgx_roots.clone(),
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: snp_roots.clone(),
        operators: vec![PublicKey::of(&operator)],
        quorum: 1,
        log_origin: command.origin.unwrap_or_else(|| format!("toani.invalid/{short}")),
        nonce: Hash::of(nonce.as_slice()),
    };
    let manifest_bytes = canonical::encode(&manifest)?;
    Manifest::decode(&manifest_bytes)?;
    let runner = tee::runner(&programs, command.machine, &home.data(), &manifest)?;
    home::create(&home.data().join(toani_gateway::MANIFEST), &manifest_bytes)?;

    output.progress("An enclave is born: it proves what it is, and makes the instance's root key.");
    let born = toani_gateway::birth(&runner, &home.data()).await;
    let facts = born.with_context(|| {
        format!(
            "{} is not whole; mend what follows, remove it, and try again",
            home.root().display()
        )
    })?;
    let tenant = TenantId::of_first_key(&PublicKey::of(&policy));
    let trust = TrustFile {
        format: TrustFormat::V1,
        instance: facts.instance,
        tenant: Some(tenant.clone()),
        mrenclaves: vec![facts.mrenclave],
        log: LogTrust { origin: manifest.log_origin, key: facts.chain_key },
        intake_key: IntakeKey(Bytes(facts.intake_key.to_vec())),
        sgx_roots,
        sgx_policy: manifest.sgx_policy,
        snp_roots,
        witnesses: Vec::new(),
        witness_quorum: 0,
    };
    home::create(&home.trust_file(), &canonical::encode(&trust)?)?;
    let result = json!({
        "home": home.root(),
        "instance": facts.instance,
        "tenant": tenant,
        "owner": PublicKey::of(&owner),
        "policy_key": PublicKey::of(&policy),
        "trust": home.trust_file(),
        "mrenclave": facts.mrenclave,
        "tee": facts.tee,
    });
    output.result(&result, |output| {
        let (root, owner) = (home.root().display(), PublicKey::of(&owner));
        format!(
            "{} instance {}\n\n\
             {root}/data         stays here: the plane's own folder\n\
             {root}/trust.json   goes to everyone who verifies; compare it by other means\n\
             {root}/operator     belongs to the operators: admits sandboxes\n\
             {root}/tenant       belongs to who writes policies; its key:\n\
             \x20   {}\n\
             {root}/owner        belongs to who owns credentials; policies name its key:\n\
             \x20   {owner}\n\
             {root}/agents, approvers: each belongs on its own machine\n\n\
             {}\n\n\
             Next: toani serve, and in another terminal: toani admission admit --sandbox",
            output.good("Born:"),
            facts.instance,
            PublicKey::of(&policy),
            tee::in_words(facts.tee),
        )
    });
    Ok(())
}
