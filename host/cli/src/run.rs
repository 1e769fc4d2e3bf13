//! `toani run`: ask as an agent, wait for people, execute, verify the receipt.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use toani_protocol::{
    ActionName, AgentId, BootId, Hash, Reason, ServiceId, TenantId, Time, UserId,
    canonical::{self, Json},
    limits::REQUEST_BYTES_MAX,
    record::{Connection, ExecutionResult, Receipt},
    request::{ActionRequest, ReadRequest},
    sign::{self, Label, Signed},
    trust::TrustFile,
};

use crate::{
    client::Client,
    failure::Failure,
    home::Home,
    keys::{self, Key},
    output::{Output, pretty},
};

/// How long a signed request or look is good for.
const SIGNED_FOR_MS: u64 = 10 * 60 * 1000;
/// How often to look whether people have answered.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// SERVICE.ACTION
    action: String,
    /// A JSON object.
    #[arg(long, default_value = "{}")]
    params: String,
    #[arg(long, default_value = "agent")]
    agent: AgentId,
    /// Whom the agent acts for; by default its own name.
    #[arg(long)]
    user: Option<UserId>,
    /// The same key gets the same answer for 24 hours; by default a random one.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Redeem this token instead of asking for one. It is good for the very request that asked for
    /// it: the same agent, user, action and --params, and the same --idempotency-key.
    #[arg(long, requires = "idempotency_key")]
    token: Option<String>,
    /// Print the token instead of redeeming it; say --idempotency-key too, to redeem it later.
    #[arg(long, requires = "idempotency_key", conflicts_with = "token")]
    token_only: bool,
    /// Wait so many seconds for people; by default as long as the policy lets them.
    #[arg(long)]
    wait_s: Option<u64>,
}

/// This machine's clock.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn split_action(text: &str) -> anyhow::Result<(ServiceId, ActionName)> {
    let parts = text.split_once('.').and_then(|(service, action)| {
        Some((ServiceId::new(service).ok()?, ActionName::new(action).ok()?))
    });
    let usage = || Failure::Usage(format!("{text} is not SERVICE.ACTION"));
    Ok(parts.ok_or_else(usage)?)
}

pub(crate) fn parse_params(text: &str) -> anyhow::Result<Json> {
    let params = canonical::parse(text.as_bytes(), REQUEST_BYTES_MAX)
        .map_err(|error| Failure::Usage(format!("--params: {error}")))?;
    if !params.is_object() {
        return Err(Failure::Usage("--params is a JSON object".to_owned()).into());
    }
    Ok(Json(params))
}

/// An agent with its key, towards one boot of one instance.
pub(crate) struct Caller {
    agent: AgentId,
    key: Key,
    tenant: TenantId,
    instance: Hash,
    boot: BootId,
}

impl Caller {
    pub(crate) async fn new(home: &Home, client: &Client, agent: AgentId) -> anyhow::Result<Self> {
        let trust = home.trust()?;
        let key = keys::read(&home.agent_key(agent.as_str()))?;
        let instance = client.get("/v1/instance").await?;
        let text = |name: &str| instance.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("instance") != trust.instance.to_string() {
            bail!("the plane is another instance than the one of your trust file");
        }
        let boot = BootId::new(text("boot")).context("the plane names no boot")?;
        let tenant = trust.tenant.context("the trust file names no tenant")?;
        Ok(Self { agent, key, tenant, instance: trust.instance, boot })
    }

    fn request(&self, command: &Run) -> anyhow::Result<ActionRequest> {
        let (service, action) = split_action(&command.action)?;
        let issued_at = now();
        Ok(ActionRequest {
            instance: self.instance,
            boot: self.boot.clone(),
            tenant: self.tenant.clone(),
            agent: self.agent.clone(),
            user: match &command.user {
                Some(user) => user.clone(),
                None => UserId::new(self.agent.as_str())?,
            },
            service,
            action,
            params: parse_params(&command.params)?,
            idempotency_key: match &command.idempotency_key {
                Some(key) => key.clone(),
                None => format!("cli-{}", HEXLOWER.encode(&*keys::random::<16>()?)),
            },
            issued_at,
            expires_at: issued_at.plus_ms(SIGNED_FOR_MS),
        })
    }

    /// The body that proves the request: signed, or with the API key in its header.
    fn proven(&self, request: &ActionRequest) -> anyhow::Result<(Value, Option<String>)> {
        match &self.key {
            Key::Ed25519(key) => {
                let signature = sign::sign(key, Label::Request, &canonical::encode(request)?);
                Ok((json!({"request": request, "signature": signature}), None))
            }
            Key::Api(key) => Ok((json!({"request": request}), Some(format!("Bearer {}", **key)))),
            Key::Passkey(_) => bail!("an agent signs with an Ed25519 key, not with a passkey"),
        }
    }

    /// The header, and query, by which the agent reads what is its own.
    fn read(&self, id: &str) -> anyhow::Result<(String, String)> {
        match &self.key {
            Key::Ed25519(key) => {
                let issued_at = now();
                let request = canonical::encode(&ReadRequest {
                    instance: self.instance,
                    boot: self.boot.clone(),
                    tenant: self.tenant.clone(),
                    agent: self.agent.clone(),
                    id: id.to_owned(),
                    issued_at,
                    expires_at: issued_at.plus_ms(SIGNED_FOR_MS),
                })?;
                let signature = sign::sign(key, Label::Read, &request);
                let proof = BASE64URL_NOPAD.encode(&request);
                let signature = BASE64URL_NOPAD.encode(&signature.0);
                Ok((format!("Toani {proof}.{signature}"), String::new()))
            }
            Key::Api(key) => Ok((
                format!("Bearer {}", **key),
                format!("?tenant={}&agent={}", self.tenant, self.agent),
            )),
            Key::Passkey(_) => bail!("an agent signs with an Ed25519 key, not with a passkey"),
        }
    }

    async fn action(&self, client: &Client, id: &str) -> anyhow::Result<Value> {
        let (authorization, query) = self.read(id)?;
        client.get_as(&format!("/v1/actions/{id}{query}"), &authorization).await?.json()
    }

    pub(crate) async fn execution(&self, client: &Client, id: &str) -> anyhow::Result<Value> {
        let (authorization, query) = self.read(id)?;
        client.get_as(&format!("/v1/executions/{id}{query}"), &authorization).await?.json()
    }
}

pub(crate) async fn run(
    command: Run,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let caller = Caller::new(home, client, command.agent.clone()).await?;
    let request = caller.request(&command)?;
    let token = match &command.token {
        Some(token) => token.clone(),
        None => match token(&caller, &request, &command, home, client, output).await? {
            Asked::Token(token) => token,
            Asked::Executed(id) => {
                let result = caller.execution(client, &id).await?;
                return told(&result, home, output);
            }
        },
    };
    if command.token_only {
        output.result(&json!({ "token": token }), |_| token.clone());
        return Ok(());
    }
    let (mut body, authorization) = caller.proven(&request)?;
    if let Some(map) = body.as_object_mut() {
        map.insert("token".to_owned(), json!(token));
    }
    let answer = client
        .post("/v1/executions", authorization.as_deref(), body.to_string().into_bytes())
        .await?;
    told(&answer.json()?, home, output)
}

enum Asked {
    Token(String),
    Executed(String),
}

/// Asks, and waits until there is a token.
async fn token(
    caller: &Caller,
    request: &ActionRequest,
    command: &Run,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<Asked> {
    let (body, authorization) = caller.proven(request)?;
    let answer =
        client.post("/v1/actions", authorization.as_deref(), body.to_string().into_bytes()).await?;
    let mut action = answer.json()?;
    let began = std::time::Instant::now();
    let mut said = None;
    loop {
        let text = |name: &str| action.get(name).and_then(Value::as_str).unwrap_or_default();
        let id = text("action_id").to_owned();
        match text("state") {
            "token" => return Ok(Asked::Token(text("token").to_owned())),
            "executed" => return Ok(Asked::Executed(text("execution_id").to_owned())),
            "pending" => {}
            _ => {
                let (code, detail) = (text("reason").to_owned(), text("detail").to_owned());
                return Err(Failure::Refused { code, detail }.into());
            }
        }
        let count = |name: &str| action.get(name).and_then(Value::as_u64).unwrap_or_default();
        let progress = (count("approved"), count("threshold"));
        if said != Some(progress) {
            let (approved, threshold) = progress;
            output.progress(&format!("{id} waits: {approved} of {threshold} approved"));
            said = Some(progress);
        }
        let limit = command.wait_s.map(Duration::from_secs);
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            return Err(Failure::Waited(format!("{id} still waits for people")).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        action = match caller.action(client, &id).await {
            // A signed look names its boot, and there is another one now.
            Err(error) if is_of_another_boot(&error) => {
                let caller = Caller::new(home, client, command.agent.clone()).await?;
                caller.action(client, &id).await?
            }
            action => action?,
        };
    }
}

fn is_of_another_boot(error: &anyhow::Error) -> bool {
    let failure = error.downcast_ref::<Failure>();
    failure.is_some_and(|failure| failure.code() == Reason::RequestBoot.code())
}

fn told(result: &Value, home: &Home, output: &Output) -> anyhow::Result<()> {
    let summary = verify_receipt(result, &home.trust()?)?;
    output.result(result, |output| {
        let shown = result.get("result").filter(|shown| !shown.is_null());
        let outcome = result.get("outcome").and_then(Value::as_str).unwrap_or_default();
        let head = if outcome == "succeeded" { output.good(outcome) } else { output.bad(outcome) };
        format!("{head}\n{}\n{}", shown.map(pretty).unwrap_or_default(), output.dim(&summary))
    });
    match result.get("outcome").and_then(Value::as_str) {
        Some("succeeded") => Ok(()),
        other => Err(Failure::Refused {
            code: other.unwrap_or("unknown").to_owned(),
            detail: "the execution did not succeed".to_owned(),
        }
        .into()),
    }
}

/// Verifies the receipt of a result against the trust file, and says what it proves.
pub(crate) fn verify_receipt(result: &Value, trust: &TrustFile) -> anyhow::Result<String> {
    if result.get("receipt").is_none() {
        return Ok("no receipt: what happened is not known".to_owned());
    }
    let bytes = canonical::encode_value(result)?;
    let result: ExecutionResult =
        canonical::decode(&bytes, usize::MAX).context("the plane sent no execution result")?;
    let signed: &Signed<Receipt> = &result.receipt;
    let receipt = &signed.payload;
    let hash = result.result.as_ref().map(canonical::encode).transpose()?;
    let vouched = signed.verify(Label::Receipt, &[trust.log.key], 1).is_ok()
        && receipt.instance == trust.instance
        && trust.mrenclaves.contains(&receipt.tee_mrenclave)
        && receipt.result_hash == hash.map(|bytes| Hash::of(&bytes))
        && receipt.outcome == result.outcome
        && receipt.execution_id == result.execution_id;
    if !vouched {
        bail!("the receipt is not signed by the enclave of your trust file; do not rely on it");
    }
    let mut lines = vec![
        "receipt verified: signed by the key of your trust file; toani instance show says whose that is"
            .to_owned(),
    ];
    let aspects = receipt.assurance.in_words().into_iter();
    lines.extend(aspects.map(|(aspect, level, means)| format!("  {aspect:<10} {level}: {means}")));
    lines.push(format!("ran in the root file system {}", receipt.root_file_system));
    lines.push(connections(&receipt.connections));
    Ok(lines.join("\n"))
}

/// What the sandbox counted at its door.
fn connections(opened: &[Connection]) -> String {
    let lines = opened.iter().map(|Connection { host, port, bytes_out, bytes_in }| {
        format!("connected to {host}:{port}: {bytes_out} bytes out, {bytes_in} bytes in")
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() { "connected to nothing".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_was_opened() {
        assert_eq!(connections(&[]), "connected to nothing");
        let opened = Connection { host: "a.example".into(), port: 8443, bytes_out: 7, bytes_in: 9 };
        let line = "connected to a.example:8443: 7 bytes out, 9 bytes in";
        let twice = [opened.clone(), opened];
        assert_eq!(connections(&twice[..1]), line);
        assert_eq!(connections(&twice), format!("{line}\n{line}"));
    }
}
