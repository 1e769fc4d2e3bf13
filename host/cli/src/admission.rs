//! `toani admission`: the operators say which sandboxes may receive credentials, and which enclaves
//! may give them jobs.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use toani_protocol::{
    Hash, canonical,
    instance::{AdmissionFormat, AdmissionList, AdmittedSandbox, TcbVersion},
    sign::{Bytes, Label, Signed},
    trust::TrustFile,
};

use toani_sandbox::{DriverKind, root::Roots};

use crate::{
    chip::{self, Chip},
    client::Client,
    home::Home,
    keys,
    output::Output,
    sandbox::{Runtime, Sandbox, expect_agreement, level},
    serve::programs,
    tee,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Admission {
    /// Replace the list: admit the sandbox program beside this one, on this machine's chip, and
    /// the enclave that runs, and no others.
    ///
    /// Example: toani admission admit --sandbox
    Admit {
        /// Measure what holds connectors here, and admit it at its level: gvisor if nothing is
        /// named.
        #[arg(
            long, value_enum, required = true, num_args = 0..=1, default_missing_value = "gvisor"
        )]
        sandbox: Sandbox,
        #[command(flatten)]
        runtime: Runtime,
        /// Where the plane's programs are; by default beside this one.
        #[arg(long)]
        programs: Option<PathBuf>,
        /// The simulated machine's folder, if the instance lives on one; by default one of this
        /// user's.
        #[arg(long, env = "TOANI_MACHINE")]
        machine: Option<PathBuf>,
        /// The chip of an SEV-SNP guest, in 128 hexadecimal digits, as `snphost show identifier`
        /// prints it; without it, the one that the VCEK of --certificates is for.
        #[arg(long, value_name = "HEX", requires = "snp")]
        chip: Option<String>,
    },
}

pub(crate) async fn run(
    command: Admission,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Admission::Admit { sandbox, runtime, programs: given, machine, chip } = command;
    let programs = programs(given)?;
    let driver = runtime.driver(sandbox, &programs)?;
    let trust = home.trust()?;
    expect_agreement(&driver, &trust.snp_roots)?;
    let Chip { id: chip, min_tcb } = match &driver {
        DriverKind::Vm(paths) if paths.is_snp() => chip::amd(chip.as_deref(), paths)?,
        _ => simulated_chip(&trust, &programs, machine)?,
    };
    let roots = Roots::open(&programs.join(driver.root_file_system()), &driver)?;
    let root_file_systems = roots.digests();
    let digest =
        toani_sandbox::launch_digest(&programs.join("toani-sandbox"), &driver, root_file_systems)
            .with_context(|| format!("cannot measure the sandbox in {}", programs.display()))?;
    let launch_digest = Bytes(digest.to_vec());
    let instance = client.get("/v1/instance").await?;
    let mrenclave = mrenclave(&trust, &instance)?;
    let version = instance.get("admission_version").and_then(Value::as_u64).unwrap_or(0);
    let version = version.saturating_add(1);
    let level = level(&driver);
    let list = AdmissionList {
        format: AdmissionFormat::V1,
        instance: trust.instance,
        version,
        enclaves: vec![mrenclave],
        sandboxes: vec![AdmittedSandbox {
            launch_digest: launch_digest.clone(),
            level,
            root_file_systems,
        }],
        chips: vec![chip.clone()],
        min_tcb,
        refused_products: Vec::new(),
        min_crl_number: None,
    };
    let signed = Signed::by(&keys::read_ed25519(&home.operator_key())?, Label::Admission, list)?;
    let bytes = canonical::encode(&signed)?;
    let hash = Hash::of(&bytes);
    client.admin_put("/admin/v1/admission", bytes).await?;
    let sandbox = toani_protocol::instance::sandbox_hash(&digest);
    let result = json!({
        "version": version, "hash": hash, "enclave": mrenclave, "sandbox": sandbox,
        "launch_digest": launch_digest, "root_file_systems": root_file_systems, "chip": chip,
        "min_tcb": min_tcb, "level": level,
    });
    output.result(&result, |output| {
        format!("{} sandbox {sandbox} at level {}", output.good("Admitted:"), level.as_str())
    });
    Ok(())
}

/// The chip of a simulated machine, which the sandbox runs on.
fn simulated_chip(
    trust: &TrustFile,
    programs: &std::path::Path,
    machine: Option<PathBuf>,
) -> anyhow::Result<Chip> {
    let machine = tee::simulated_chip(&trust.snp_roots, machine)
        .context("there is no simulated machine whose chip could be admitted")?;
    let machine = tee::simulated_machine(programs, Some(machine))?;
    if !trust.snp_roots.contains(&machine.snp_root) {
        bail!("the trust file does not name this machine's root; --machine names another folder");
    }
    Ok(Chip { id: machine.chip, min_tcb: TcbVersion::default() })
}

/// The enclave that runs, if the trust file names it too.
fn mrenclave(trust: &TrustFile, instance: &Value) -> anyhow::Result<Hash> {
    let said = instance.get("mrenclave").and_then(Value::as_str).unwrap_or_default();
    let mrenclave: Hash = said.parse().context("the plane names no MRENCLAVE")?;
    if !trust.mrenclaves.contains(&mrenclave) {
        bail!("the plane runs {mrenclave}, which the trust file does not name");
    }
    Ok(mrenclave)
}
