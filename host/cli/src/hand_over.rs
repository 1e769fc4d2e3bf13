//! `toani hand-over`: an instance goes on in another version of the image, or on another machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use toani_attestation::{Evidence, sgx};
use toani_enclave_host::{Runner, now};
use toani_gateway::asked_key;
use toani_protocol::{
    Hash, canonical,
    evidence::root_request_report_data,
    hand_over::{HandOver, HandOverFormat, RootPackage, RootRequest},
    limits::DOCUMENT_BYTES_MAX,
    sign::{Label, PublicKey, Signed},
    trust::TrustFile,
};

use crate::{
    client::Client,
    home::{self, Home},
    keys,
    output::Output,
    serve::programs,
    tee,
};

const HOUR_MS: u64 = 3_600_000;

#[derive(Debug, Subcommand)]
pub(crate) enum HandOverCommand {
    /// On the side that is to take the root: ask for it, with the new image. The plane may run on.
    ///
    /// Example: toani hand-over ask --out request.json
    Ask {
        #[command(flatten)]
        enclave: EnclaveArguments,
        /// Where the request goes: for operators, and for the side that gives.
        #[arg(long)]
        out: PathBuf,
    },
    /// As an operator: allow one hand-over, to the enclave that has made this request.
    ///
    /// Example: toani hand-over sign request.json --out statement.json --to
    /// 8d402b7fa0119c04efce3137c3ba632008e0ee8ae307d74632712944877d149c
    Sign(Sign),
    /// On the side that has the root: give it away. The plane is stopped, and stays so.
    ///
    /// Example: toani hand-over give statement.json --request request.json --out package.json
    Give {
        /// With the signatures of enough operators.
        statement: PathBuf,
        #[arg(long)]
        request: PathBuf,
        #[command(flatten)]
        enclave: EnclaveArguments,
        /// Where the root goes, sealed to the enclave that has asked.
        #[arg(long)]
        out: PathBuf,
    },
    /// On the side that has asked: take the root. The other side's data folder is here by then.
    ///
    /// Example: toani hand-over take package.json
    Take {
        package: PathBuf,
        #[command(flatten)]
        enclave: EnclaveArguments,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnclaveArguments {
    /// Where the plane's programs are; by default beside this one.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The simulated machine's folder, if the instance lives on one; by default one of this user's.
    #[arg(long, env = "TOANI_MACHINE")]
    machine: Option<PathBuf>,
}

impl EnclaveArguments {
    fn runner(self, home: &Home) -> anyhow::Result<Runner> {
        let manifest = toani_gateway::manifest(&home.data())?;
        tee::runner(&programs(self.programs)?, self.machine, &home.data(), &manifest)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    request: PathBuf,
    /// MRENCLAVE of the image that is to take the root, as `./x image` prints it.
    #[arg(long, value_parser = mrenclave)]
    to: Hash,
    /// MRENCLAVE of the image that gives it; by default the running plane's. The trust file names it.
    #[arg(long, requires = "counter", value_parser = mrenclave)]
    from: Option<Hash>,
    /// One more than the instance's hand-overs so far; by default the running plane is asked.
    #[arg(long, requires = "from")]
    counter: Option<u64>,
    /// The least ISVSVN of the image that takes the root.
    #[arg(long, default_value_t = 0)]
    min_isv_svn: u16,
    /// For how long the statement is good; with --with, how long it may be good at most.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=720))]
    hours: u64,
    /// Another operator's statement about the same: sign that one too.
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Where the statement goes.
    #[arg(long)]
    out: PathBuf,
}

/// 64 hexadecimal digits, as builds print them, or with `sha256:` before, as documents have it.
fn mrenclave(text: &str) -> Result<Hash, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{digits}").parse().map_err(|error| format!("{error}"))
}

pub(crate) async fn run(
    command: HandOverCommand,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        HandOverCommand::Ask { enclave, out } => ask(enclave, &out, home, output).await,
        HandOverCommand::Sign(command) => sign(command, home, client, output).await,
        HandOverCommand::Give { statement, request, enclave, out } => {
            let (statement, request) = (home::read(&statement)?, home::read(&request)?);
            let runner = enclave.runner(home)?;
            let package =
                toani_gateway::give_root(&runner, &home.data(), statement, request).await?;
            home::write(&out, &package)?;
            output.result(&json!({"package": out}), |output| {
                format!(
                    "{} the instance goes on where the root is taken; here it starts no more.\n\
                     Next, over there, with audit/ and store.sqlite* of {}:\n\
                     toani hand-over take {}",
                    output.good("Given:"),
                    home.data().display(),
                    out.display()
                )
            });
            Ok(())
        }
        HandOverCommand::Take { package, enclave } => take(&package, enclave, home, output).await,
    }
}

async fn ask(
    enclave: EnclaveArguments,
    out: &Path,
    home: &Home,
    output: &Output,
) -> anyhow::Result<()> {
    let runner = enclave.runner(home)?;
    let asked = toani_gateway::ask_root(&runner, &home.data()).await?;
    let key_file = home.data().join(asked_key(&asked.key));
    home::create(&key_file, &asked.sealed_key)?;
    home::write(out, &asked.request)?;
    output.result(&json!({"request": out}), |output| {
        format!(
            "{} the key of this request lies sealed in {}\n\
             Next, as an operator: toani hand-over sign {} --to MRENCLAVE --out statement.json",
            output.good("Asked:"),
            key_file.display(),
            out.display()
        )
    });
    Ok(())
}

async fn sign(command: Sign, home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let trust = home.trust()?;
    let request: RootRequest =
        canonical::decode(&home::read(&command.request)?, DOCUMENT_BYTES_MAX)
            .with_context(|| format!("{} is no request for a root", command.request.display()))?;
    let isv_svn = shown(&request, &trust, command.to)?;
    if isv_svn < command.min_isv_svn {
        bail!("the image that asks has ISVSVN {isv_svn}");
    }
    let payload = statement(&command, &request, &trust, client).await?;
    let mut signed = match &command.with {
        Some(path) => same(read_statement(path)?, payload)?,
        None => Signed { payload, signatures: Vec::new() },
    };
    let operator = keys::read_ed25519(&home.operator_key())?;
    if signed.signatures.iter().any(|there| there.key == PublicKey::of(&operator)) {
        bail!("this operator has signed the statement already");
    }
    let own = Signed::by(&operator, Label::HandOver, signed.payload.clone())?;
    signed.signatures.extend(own.signatures);
    home::write(&command.out, &canonical::encode(&signed)?)?;
    let allowed = &signed.payload;
    let result = json!({
        "statement": command.out, "counter": allowed.counter, "from": allowed.from,
        "to": allowed.to, "expires_at": allowed.expires_at, "signatures": signed.signatures.len(),
    });
    output.result(&result, |output| {
        let HandOver { counter, from, to, expires_at, .. } = allowed;
        format!(
            "{} hand-over {counter} from {from} to {to}, until {expires_at}, by {} operators\n\
             Next, where the root is: stop the plane, then\n\
             toani hand-over give {} --request {} --out package.json",
            output.good("Signed:"),
            signed.signatures.len(),
            command.out.display(),
            command.request.display()
        )
    });
    Ok(())
}

/// Verifies the request's evidence, and that it is the named image's. Returns its ISVSVN.
fn shown(request: &RootRequest, trust: &TrustFile, to: Hash) -> anyhow::Result<u16> {
    if request.instance != trust.instance {
        bail!("the request is for another instance than the trust file's");
    }
    let key: &[u8; 32] = request.key.0.as_slice().try_into().context("a key has 32 bytes")?;
    let Ok(Evidence::Sgx(evidence)) = Evidence::decode(&request.evidence.0) else {
        bail!("the request shows no enclave's evidence");
    };
    let verdict = sgx::verify(&evidence, &trust.sgx_roots, &trust.sgx_policy, now())
        .context("the request's evidence does not hold")?;
    if verdict.report_data != root_request_report_data(&request.instance, key) {
        bail!("the request's evidence vouches for another key");
    }
    if verdict.mrenclave != to {
        bail!("the image that asks is {}, and not the one that --to names", verdict.mrenclave);
    }
    Ok(verdict.isv_svn)
}

/// Another operator's statement, if it says what this operator would say, and no longer.
fn same(signed: Signed<HandOver>, own: HandOver) -> anyhow::Result<Signed<HandOver>> {
    let signers: Vec<PublicKey> = signed.signatures.iter().map(|there| there.key).collect();
    signed
        .verify(Label::HandOver, &signers, signers.len())
        .context("a signature of the statement does not hold; it would spoil yours")?;
    let expires_at = signed.payload.expires_at;
    let in_time = now() < expires_at && expires_at <= own.expires_at;
    if signed.payload != (HandOver { expires_at, ..own }) {
        bail!("the statement is not about this request, these images and this hand-over");
    }
    if !in_time {
        bail!("the statement is good until {expires_at}; --hours says how long it may be");
    }
    Ok(signed)
}

async fn statement(
    command: &Sign,
    request: &RootRequest,
    trust: &TrustFile,
    client: &Client,
) -> anyhow::Result<HandOver> {
    let (from, counter) = match command.from.zip(command.counter) {
        Some(given) => given,
        None => running(client).await?,
    };
    // Else a host could have another image vouch for a root of its own.
    if !trust.mrenclaves.contains(&from) {
        bail!("the root is to come from {from}, which the trust file does not name");
    }
    Ok(HandOver {
        format: HandOverFormat::V1,
        instance: request.instance,
        counter,
        chain_key: trust.log.key,
        from,
        to: command.to,
        min_isv_svn: command.min_isv_svn,
        key: request.key.clone(),
        expires_at: now().plus_ms(command.hours.saturating_mul(HOUR_MS)),
    })
}

/// What the running plane says. The enclave that gives compares it with its own.
async fn running(client: &Client) -> anyhow::Result<(Hash, u64)> {
    let instance = client.get("/v1/instance").await?;
    let mrenclave = instance.get("mrenclave").and_then(Value::as_str).unwrap_or_default();
    let hand_overs = instance.get("hand_overs").and_then(Value::as_u64);
    let hand_overs = hand_overs.context("the plane does not say how often it was handed over")?;
    let from = mrenclave.parse().context("the plane names no MRENCLAVE")?;
    Ok((from, hand_overs.saturating_add(1)))
}

fn read_statement(path: &Path) -> anyhow::Result<Signed<HandOver>> {
    canonical::decode(&home::read(path)?, DOCUMENT_BYTES_MAX)
        .with_context(|| format!("{} is no signed hand-over", path.display()))
}

async fn take(
    package: &Path,
    enclave: EnclaveArguments,
    home: &Home,
    output: &Output,
) -> anyhow::Result<()> {
    let bytes = home::read(package)?;
    let read = RootPackage::decode(&bytes)
        .with_context(|| format!("{} is no root package", package.display()))?;
    let key_file = home.data().join(asked_key(&read.statement.payload.key));
    let key = home::read(&key_file).context("the request of this package was made elsewhere")?;
    let (runner, package) = (enclave.runner(home)?, bytes);
    let taken = toani_gateway::take_root(&runner, &home.data(), key, package).await?;
    let trusted = trust_too(home, taken.to)
        .with_context(|| format!("the root was taken; add {} to the trust file", taken.to))?;
    let result = json!({"counter": taken.counter, "mrenclave": taken.to, "trust": trusted});
    output.result(&result, |output| {
        format!(
            "{} hand-over {}; the root is sealed for {}\n\
             Every trust file has to name this measurement beside the ones before{}.\n\
             Next: toani serve, and in another terminal: toani admission admit --sandbox",
            output.good("Taken:"),
            taken.counter,
            taken.to,
            if trusted { "; the one here does" } else { "" }
        )
    });
    Ok(())
}

/// The operators' word is believed here, where the enclave has just verified it.
fn trust_too(home: &Home, mrenclave: Hash) -> anyhow::Result<bool> {
    if !home.trust_file().exists() {
        return Ok(false);
    }
    let mut trust = home.trust()?;
    if !trust.mrenclaves.contains(&mrenclave) {
        trust.mrenclaves.push(mrenclave);
        home::write(&home.trust_file(), &canonical::encode(&trust)?)?;
    }
    Ok(true)
}
