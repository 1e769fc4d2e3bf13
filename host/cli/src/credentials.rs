//! `toani credential`: sealed here, on the owner's side, to the enclave alone.

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hpke::{
    Deserializable, Kem, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256, setup_sender_with_rng,
};
use serde_json::{Value, json};
use toani_protocol::{
    CredentialId, Hash, Namespace, canonical,
    credential::{CredentialHeader, INTAKE_INFO, SealedCredential},
    limits::CREDENTIAL_BYTES_MAX,
    policy::{Endpoint, Injection, TlsTrust},
    sign::{self, Bytes, Label, PublicKey},
    trust::TrustFile,
};
use zeroize::Zeroizing;

use crate::{
    attestation,
    client::Client,
    failure::Failure,
    hidden,
    home::Home,
    keys,
    output::{Output, table},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Credential {
    /// Seal a new credential. The value comes from a prompt, or from standard input.
    ///
    /// Example: toani credential add broker --endpoint api.broker.example
    Add(Add),
    /// Seal a new value for a credential that is there: the next version.
    ///
    /// Example: toani credential rotate broker --endpoint api.broker.example
    Rotate(Add),
    /// Revoke a credential: nothing that needs it starts any more.
    ///
    /// Example: toani credential revoke broker
    Revoke {
        id: CredentialId,
        #[arg(long, default_value = "main")]
        namespace: Namespace,
    },
    /// List the tenant's credentials; values cannot be read out by anyone.
    ///
    /// Example: toani credential list
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The name under which policies use it.
    id: CredentialId,
    /// Where it may be sent, as HOST or HOST:PORT; may be repeated.
    #[arg(long = "endpoint", required = true)]
    endpoints: Vec<String>,
    /// SHA-256 of a public key that the endpoints' certificates must have; may be repeated. Without
    /// it, certificates are verified against the public web's roots.
    #[arg(long = "spki")]
    spki: Vec<Hash>,
    /// The endpoints may have private addresses.
    #[arg(long)]
    private: bool,
    /// bearer, basic, header:NAME or query:NAME
    #[arg(long, default_value = "bearer")]
    injection: String,
    #[arg(long, default_value = "main")]
    namespace: Namespace,
}

pub(crate) async fn run(
    command: Credential,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        Credential::Add(add) => put(add, false, home, client, output).await,
        Credential::Rotate(add) => put(add, true, home, client, output).await,
        Credential::Revoke { id, namespace } => revoke(id, namespace, home, client, output).await,
        Credential::List => list(home, client, output).await,
    }
}

async fn put(
    add: Add,
    rotate: bool,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let trust = home.trust()?;
    let owner = keys::read_ed25519(&home.owner_key())?;
    let active = newest(&trust, &add.id, &PublicKey::of(&owner), client).await?;
    let version = match (active, rotate) {
        (None, false) => 1,
        (Some(version), true) => version.saturating_add(1),
        (None, true) => bail!("there is no credential {} to rotate; use `credential add`", add.id),
        (Some(_), false) => bail!("{} is there already; use `credential rotate`", add.id),
    };
    let header = CredentialHeader {
        instance: trust.instance,
        tenant: trust.tenant.clone().context("the trust file names no tenant")?,
        namespace: add.namespace,
        owner: PublicKey::of(&owner),
        id: add.id,
        version,
        endpoints: endpoints(&add.endpoints, add.private)?,
        tls: match add.spki.is_empty() {
            true => TlsTrust::Public,
            false => TlsTrust::SpkiSha256(add.spki),
        },
        injection: injection(&add.injection)?,
        rotate: false,
    };
    attestation::require(&trust, client).await?;
    let value = read_value()?;
    let sealed = seal(header, &value, &trust, &owner)?;
    let result = json!({"id": sealed.header.id, "version": version});
    client.admin_put("/admin/v1/credentials", canonical::encode(&sealed)?).await?;
    output.result(&result, |output| {
        format!(
            "{} {} version {version}; only the enclave can open it",
            output.good("Sealed:"),
            sealed.header.id
        )
    });
    Ok(())
}

/// From a prompt without echo, or from standard input without its last line break.
fn read_value() -> anyhow::Result<Zeroizing<String>> {
    let mut value = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        value = hidden::ask("Value (not shown): ")?;
    } else {
        let limit = u64::try_from(CREDENTIAL_BYTES_MAX)?.saturating_add(2);
        std::io::stdin().take(limit).read_to_string(&mut value)?;
        let kept = value.trim_end_matches(['\r', '\n']).len();
        value.truncate(kept);
    }
    if value.is_empty() || value.len() > CREDENTIAL_BYTES_MAX {
        bail!("a credential has 1 to {CREDENTIAL_BYTES_MAX} bytes");
    }
    Ok(value)
}

/// HPKE to the intake key that the trust file names, and that the running plane's evidence has
/// vouched for; the owner signs header and ciphertext.
fn seal(
    header: CredentialHeader,
    value: &str,
    trust: &TrustFile,
    owner: &ed25519_dalek::SigningKey,
) -> anyhow::Result<SealedCredential> {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&trust.intake_key.0.0)
        .map_err(|_| anyhow::anyhow!("the trust file's intake key is no X25519 key"))?;
    let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
    let failed = |_| anyhow::anyhow!("sealing failed");
    let (encapsulated, mut context) = setup_sender_with_rng::<
        AesGcm256,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &key, INTAKE_INFO, &mut rng)
    .map_err(failed)?;
    let aad = canonical::encode(&header)?;
    let ciphertext = Bytes(context.seal(value.as_bytes(), &aad).map_err(failed)?);
    let encapsulated = Bytes(encapsulated.to_bytes().to_vec());
    let signed = SealedCredential::signed_bytes(&header, &encapsulated, &ciphertext)?;
    let signature = sign::sign(owner, Label::Credential, &signed);
    Ok(SealedCredential { header, encapsulated, ciphertext, signature })
}

fn endpoints(texts: &[String], private: bool) -> anyhow::Result<Vec<Endpoint>> {
    let parse = |text: &String| {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text.as_str(), Some(443)),
        };
        let usage = || Failure::Usage(format!("{text} is not HOST or HOST:PORT"));
        Ok(Endpoint { host: host.to_owned(), port: port.ok_or_else(usage)?, private })
    };
    texts.iter().map(parse).collect()
}

fn injection(text: &str) -> anyhow::Result<Injection> {
    Ok(match text.split_once(':') {
        None if text == "bearer" => Injection::Bearer,
        None if text == "basic" => Injection::Basic,
        Some(("header", name)) => Injection::Header(name.to_owned()),
        Some(("query", name)) => Injection::Query(name.to_owned()),
        _ => {
            let hint = "--injection is bearer, basic, header:NAME or query:NAME";
            return Err(Failure::Usage(hint.to_owned()).into());
        }
    })
}

async fn rows(trust: &TrustFile, client: &Client) -> anyhow::Result<Vec<Value>> {
    let tenant = trust.tenant.as_ref().context("the trust file names no tenant")?;
    let answer = client.admin_get(&format!("/admin/v1/credentials?tenant={tenant}")).await?;
    Ok(answer.get("credentials").and_then(Value::as_array).cloned().unwrap_or_default())
}

async fn newest(
    trust: &TrustFile,
    id: &CredentialId,
    owner: &PublicKey,
    client: &Client,
) -> anyhow::Result<Option<u64>> {
    let owner = owner.to_string();
    let same = |row: &&Value| {
        row.get("id").and_then(Value::as_str) == Some(id.as_str())
            && row.get("owner").and_then(Value::as_str) == Some(&owner)
    };
    let rows = rows(trust, client).await?;
    let versions = rows.iter().filter(same).filter_map(|row| row.get("version")?.as_u64());
    Ok(versions.max())
}

async fn revoke(
    id: CredentialId,
    namespace: Namespace,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
    let owner = PublicKey::of(&keys::read_ed25519(&home.owner_key())?);
    let body = json!({"tenant": tenant, "namespace": namespace, "owner": owner, "id": id});
    client.admin_post("/admin/v1/credentials/revoke", &body).await?;
    output.result(&json!({"revoked": id}), |output| format!("{} {id}", output.good("Revoked:")));
    Ok(())
}

async fn list(home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let rows = rows(&home.trust()?, client).await?;
    output.result(&json!({ "credentials": rows }), |_| {
        let cell = |row: &Value, name: &str| match row.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let lines: Vec<_> = rows
            .iter()
            .map(|row| ["id", "version", "state", "owner"].map(|name| cell(row, name)).to_vec())
            .collect();
        table(&["id", "version", "state", "owner"], &lines)
    });
    Ok(())
}
