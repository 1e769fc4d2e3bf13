//! Agents and approvers: what they may do by the policy, and what they, or others in their name, do.

use serde_json::{Value, json};
use toani_protocol::{
    ActionId, AgentId, TenantId,
    approval::{Evidence, Statement, Verdict},
    canonical,
    plan::Plan,
    policy::Tier,
    request::{ActionRequest, AgentProof, ReadRequest},
    sign::{self, Label, Signed},
    wire::{ActionState, Answer, Command, Read},
};

use super::{
    Watched,
    documents::{Given, flipped, pick},
    host::Host,
    steps::Step,
};
use crate::world::*;

/// The policy's tier for a request, read off `world::policy_document`.
pub(super) fn tier(request: &ActionRequest) -> Tier {
    let amount = request.params.0.get("amount").and_then(Value::as_u64);
    match request.action.as_str() {
        "read_balance" => Tier::Zero,
        "move" if amount.is_some_and(|amount| amount <= 100) => Tier::One,
        _ => Tier::Two,
    }
}

pub(super) fn threshold(request: &ActionRequest) -> usize {
    match request.action.as_str() {
        "read_balance" => 0,
        "move" => 1,
        _ => 2,
    }
}

pub(super) fn wait_ms(request: &ActionRequest) -> u64 {
    if request.action.as_str() == "move" { 60_000 } else { 600_000 }
}

/// Who may approve: neither those behind the agent, nor whom it claims to act for.
pub(super) fn approvers(request: &ActionRequest) -> Vec<&'static str> {
    let named = if request.action.as_str() == "move" {
        ["anna", "clara", "dev"]
    } else {
        ["anna", "ben", "dev"]
    };
    let behind = |person: &&str| request.agent.as_str() == "trader" && *person == "dev";
    let claimed = |person: &&str| *person == request.user.as_str();
    named.into_iter().filter(|person| !behind(person) && !claimed(person)).collect()
}

/// Whether a plan does what the request asks for.
pub(super) fn is_plan_of(plan: &Plan, request: &ActionRequest) -> bool {
    let params = &request.params.0;
    let body = plan.body.as_ref().map(|body| &body.0);
    plan.endpoint.host == "api.broker.example"
        && match request.action.as_str() {
            "read_balance" => {
                let account = params["account"].as_str().unwrap();
                body.is_none() && plan.path == format!("/v1/accounts/{account}/balance")
            }
            "move" => plan.path == "/v1/moves" && body == Some(params),
            _ => plan.path == "/v1/orders" && body == Some(params),
        }
}

/// Who reads.
pub(super) fn reader(read: &Read) -> Option<(TenantId, AgentId)> {
    match read {
        Read::Signed { request, .. } => {
            ReadRequest::decode(request).ok().map(|read| (read.tenant, read.agent))
        }
        Read::Asked { request, .. } => {
            ActionRequest::decode(request).ok().map(|asked| (asked.tenant, asked.agent))
        }
        Read::ApiKey { tenant, agent, .. } => Some((tenant.clone(), agent.clone())),
    }
}

/// A request with its proof, as it was sent.
#[derive(Clone)]
pub(super) struct Sent {
    request: Vec<u8>,
    proof: AgentProof,
}

impl Sent {
    fn decide(self) -> Command {
        Command::Decide { request: self.request, proof: self.proof }
    }

    fn execute(self, token: Option<String>) -> Command {
        Command::Execute { token, request: self.request, proof: self.proof }
    }

    fn read(self) -> Read {
        Read::Asked { request: self.request, proof: self.proof }
    }
}

const ACCOUNTS: [&str; 3] = ["x", "y", "z"];
const USERS: [&str; 4] = ["customer", "customer", "other", "anna"];

impl Host {
    /// A request: `action` chooses what, `b` the rest. Few idempotency keys, so that they meet again.
    fn wish(&self, action: &str, b: u32) -> ActionRequest {
        let params = match action {
            "read_balance" => json!({"account": ACCOUNTS[b as usize % 3]}),
            "move" => json!({"amount": if b.is_multiple_of(4) { 500 } else { b % 90 }}),
            _ => json!({"symbol": "ACME", "quantity": 1 + b % 6}),
        };
        let key = format!("k{}", (b >> 4) % 40);
        let now = self.now();
        let agent = if (b >> 10).is_multiple_of(4) { "simple" } else { "trader" };
        ActionRequest {
            agent: agent.parse().unwrap(),
            user: USERS[(b >> 12) as usize % 4].parse().unwrap(),
            issued_at: now,
            expires_at: now.plus_ms(60_000 * u64::from(1 + (b >> 14) % 20)),
            ..self.world.request(action, params, &key)
        }
    }

    /// As its agent sends it.
    fn sent(&mut self, request: &ActionRequest) -> Sent {
        let bytes = canonical::encode(request).unwrap();
        let proof = if request.agent.as_str() == "simple" {
            AgentProof::ApiKey("tk_simple".into())
        } else {
            AgentProof::Signature(sign::sign(&agent(), Label::Request, &bytes))
        };
        self.model.documents.signed_request(&bytes, &proof);
        let sent = Sent { request: bytes, proof };
        self.requests.push(sent.clone());
        sent
    }

    /// Honest in most cases.
    fn perhaps_sent(&mut self, request: ActionRequest, how: u32) -> Sent {
        let bytes = canonical::encode(&request).unwrap();
        let signed = |key: u8, label| {
            let proof = AgentProof::Signature(sign::sign(&signing_key(key), label, &bytes));
            Sent { request: bytes.clone(), proof }
        };
        match how % 24 {
            0 => signed(60, Label::Request),
            1 => signed(4, Label::Read),
            2 => Sent { request: bytes.clone(), proof: AgentProof::ApiKey("tk_guess".into()) },
            3 => {
                let Sent { request, proof } = self.sent(&request);
                Sent { request: flipped(request, how >> 4), proof }
            }
            4 => {
                let boots = &self.old_boots;
                let Some(boot) = pick(boots, how >> 4) else { return self.sent(&request) };
                self.sent(&ActionRequest { boot, ..request })
            }
            _ => self.sent(&request),
        }
    }

    pub(super) fn ask(&mut self, step: &Step) -> Watched {
        let action = ["buy_stock", "move", "read_balance", "buy_stock"][step.a as usize % 4];
        let request = self.wish(action, step.b);
        let sent = self.perhaps_sent(request, step.a >> 2);
        self.decide(sent).map(drop)
    }

    pub(super) fn ask_again(&mut self, step: &Step) -> Watched {
        match self.old_request(step) {
            Some(sent) => self.decide(sent).map(drop),
            None => Ok(()),
        }
    }

    /// An old request as it was, or as its agent makes it anew, under the same idempotency key.
    fn old_request(&mut self, step: &Step) -> Option<Sent> {
        let sent = pick(&self.requests, step.a)?;
        if step.b.is_multiple_of(3) {
            return Some(sent);
        }
        let (now, boot) = (self.now(), self.world.facts().boot.clone());
        let request = ActionRequest::decode(&sent.request).ok()?;
        let expires_at = now.plus_ms(60_000);
        Some(self.sent(&ActionRequest { boot, issued_at: now, expires_at, ..request }))
    }

    /// Lets a request be decided, and fetches the statement that people are shown.
    fn decide(&mut self, sent: Sent) -> Watched<Option<ActionId>> {
        let answer = self.send(sent.clone().decide())?;
        let Ok(Answer::Action(status)) = answer else { return Ok(None) };
        let action = status.action;
        self.actions.push((action.clone(), sent.clone()));
        if let ActionState::Pending { .. } = status.state {
            self.statement(&action)?;
        }
        if let ActionState::Token { token, .. } = status.state {
            self.tokens.push((token, sent));
        }
        Ok(Some(action))
    }

    fn statement(&mut self, action: &ActionId) -> Watched<Option<Statement>> {
        let answer = self.send(Command::Statement { action: action.clone() })?;
        let Ok(Answer::Statement { statement }) = answer else { return Ok(None) };
        let signed: Signed<Statement> = canonical::decode(&statement, usize::MAX).unwrap();
        self.statements.push(signed.payload.clone());
        Ok(Some(signed.payload))
    }

    pub(super) fn direct(&mut self, step: &Step) -> Watched {
        let action = if step.a.is_multiple_of(8) { "move" } else { "read_balance" };
        let request = self.wish(action, step.b);
        let sent = self.perhaps_sent(request, step.a >> 3);
        self.execute(sent, None)
    }

    /// An honest request that needs nobody.
    pub(super) fn start_one(&mut self, step: &Step) -> Watched {
        let request = self.wish("read_balance", step.b);
        let sent = self.sent(&request);
        self.execute(sent, None)
    }

    pub(super) fn direct_again(&mut self, step: &Step) -> Watched {
        match self.old_request(step) {
            Some(sent) => self.execute(sent, None),
            None => Ok(()),
        }
    }

    fn execute(&mut self, sent: Sent, token: Option<String>) -> Watched {
        self.send(sent.execute(token)).map(drop)
    }

    pub(super) fn redeem(&mut self, step: &Step) -> Watched {
        // The newest more often than others.
        let newest = self.tokens.len().saturating_sub(1);
        let which = if step.a.is_multiple_of(2) { newest } else { step.a as usize >> 5 };
        let known = self.tokens.get(which % self.tokens.len().max(1)).cloned();
        let Some((mut token, mut sent)) = known else { return Ok(()) };
        match (step.a >> 1) % 10 {
            0 => sent = pick(&self.requests, step.b).unwrap(),
            1 => {
                let mut bytes = flipped(token.into_bytes(), step.b >> 2);
                bytes.drain(..step.b as usize % 4 * 3);
                token = String::from_utf8_lossy(&bytes).into_owned();
            }
            2 => sent.request = flipped(sent.request, step.b),
            // The same wish under another idempotency key.
            3 => {
                let mut request = ActionRequest::decode(&sent.request).unwrap();
                request.idempotency_key = format!("k{}", step.b % 40);
                sent = self.sent(&request);
            }
            // Another wish under the same.
            4 => {
                let request = ActionRequest::decode(&sent.request).unwrap();
                let other = self.wish(request.action.as_str(), step.b);
                sent = self.sent(&ActionRequest { params: other.params, ..request });
            }
            _ => {}
        }
        self.execute(sent, Some(token))
    }

    pub(super) fn poll(&mut self, step: &Step) -> Watched {
        let Some((action, sent)) = pick(&self.actions, step.a) else { return Ok(()) };
        let read = self.read(action.as_str(), sent, step.b);
        self.poll_as(&action, read)
    }

    fn poll_as(&mut self, action: &ActionId, read: Read) -> Watched {
        let answer = self.send(Command::Poll { action: action.clone(), read })?;
        let Ok(Answer::Action(status)) = answer else { return Ok(()) };
        if let ActionState::Token { token, .. } = status.state {
            let own = self.actions.iter().find(|(there, _)| there == action);
            self.tokens.extend(own.map(|(_, sent)| (token, sent.clone())));
        }
        Ok(())
    }

    /// Somebody reads `id`; `sent` is the request that it came of.
    pub(super) fn read(&mut self, id: &str, sent: Sent, how: u32) -> Read {
        let (tenant, agent) = (tenant(), "simple".parse().unwrap());
        match how % 8 {
            0 => Read::ApiKey { tenant, agent, key: "tk_simple".into() },
            1 => Read::ApiKey { tenant, agent: "trader".parse().unwrap(), key: "tk_simple".into() },
            2 => sent.read(),
            3 => self.signed_read(id, 60),
            _ => self.signed_read(id, 4),
        }
    }

    fn signed_read(&mut self, id: &str, key: u8) -> Read {
        let now = self.now();
        let request = ReadRequest {
            instance: self.world.facts().instance,
            boot: self.world.facts().boot.clone(),
            tenant: tenant(),
            agent: "trader".parse().unwrap(),
            id: id.into(),
            issued_at: now,
            expires_at: now.plus_ms(60_000),
        };
        let request = canonical::encode(&request).unwrap();
        let proof = AgentProof::Signature(sign::sign(&signing_key(key), Label::Read, &request));
        if key == 4 {
            self.model.documents.signed_read(&request, &proof);
        }
        Read::Signed { request, proof }
    }

    /// A person answers a statement, or somebody does in a person's name.
    pub(super) fn answer(&mut self, step: &Step) -> Watched {
        // The newest more often than others.
        let newest = self.statements.len().saturating_sub(1);
        let which = if step.a.is_multiple_of(2) { newest } else { step.a as usize >> 8 };
        let statement = self.statements.get(which % self.statements.len().max(1)).cloned();
        let Some(statement) = statement else { return Ok(()) };
        let who = (step.a >> 1) as usize % 4;
        let verdict = if step.b.is_multiple_of(24) { Verdict::Deny } else { Verdict::Approve };
        let evidence = match (step.b >> 5) % 12 {
            0 => self.unverified(&statement, verdict),
            1 => by_another(&statement),
            2 => {
                let given = self.given(who, &statement, verdict);
                flipped(given, step.b >> 9)
            }
            3 => turned(&statement),
            _ => self.given(who, &statement, verdict),
        };
        self.tell(Command::Approve { evidence })
    }

    pub(super) fn answer_again(&mut self, step: &Step) -> Watched {
        let newest = self.answers.last().filter(|_| step.a.is_multiple_of(2)).cloned();
        match newest.or_else(|| pick(&self.answers, step.a)) {
            Some(evidence) => self.send(Command::Approve { evidence }).map(drop),
            None => Ok(()),
        }
    }

    /// An honest answer of one of the four persons.
    fn given(&mut self, who: usize, statement: &Statement, verdict: Verdict) -> Vec<u8> {
        let passkey = |seed, software, person| {
            Gesture::new(seed, software).evidence(person, statement, verdict)
        };
        let evidence = match who {
            0 => passkey(40, true, "anna"),
            1 => passkey(41, false, "ben"),
            2 => key_evidence("clara", &clerk(), statement, verdict),
            _ => passkey(43, false, "dev"),
        };
        self.known(&evidence, who != 2)
    }

    /// An answer whose authenticator has not verified its user.
    fn unverified(&mut self, statement: &Statement, verdict: Verdict) -> Vec<u8> {
        let gesture = Gesture { flags: 0x01, ..Gesture::new(40, true) };
        self.known(&gesture.evidence("anna", statement, verdict), false)
    }

    fn known(&mut self, evidence: &Evidence, verified: bool) -> Vec<u8> {
        let bytes = canonical::encode(evidence).unwrap();
        let (action, person) = (evidence.action_id.clone(), evidence.person.clone());
        let given = Given { action, person, verdict: evidence.verdict, verified };
        self.model.documents.answers.insert(bytes.clone(), given);
        self.answers.push(bytes.clone());
        bytes
    }

    /// From asking to the token or its execution, as all honest people do it.
    pub(super) fn approve_one(&mut self, step: &Step) -> Watched {
        let action = if step.a.is_multiple_of(3) { "move" } else { "buy_stock" };
        let request = self.wish(action, step.b);
        let sent = self.sent(&request);
        let Some(action) = self.decide(sent.clone())? else { return Ok(()) };
        let Some(statement) = self.statement(&action)? else { return Ok(()) };
        for who in 0..3 {
            let evidence = self.given(who, &statement, Verdict::Approve);
            self.tell(Command::Approve { evidence })?;
        }
        let read = if request.agent.as_str() == "trader" {
            self.signed_read(action.as_str(), 4)
        } else {
            sent.clone().read()
        };
        self.poll_as(&action, read)?;
        match self.tokens.last().cloned() {
            Some((token, _)) if !step.a.is_multiple_of(4) => self.execute(sent, Some(token)),
            _ => Ok(()),
        }
    }

    pub(super) fn revoke_token(&mut self, step: &Step) -> Watched {
        let Some((action, _)) = pick(&self.actions, step.a) else { return Ok(()) };
        self.tell(Command::RevokeToken { tenant: tenant(), action })
    }
}

/// One person's key in another's name.
fn by_another(statement: &Statement) -> Vec<u8> {
    let evidence = Gesture::new(40, true).evidence("ben", statement, Verdict::Approve);
    canonical::encode(&evidence).unwrap()
}

/// A denial that is passed off as an approval.
fn turned(statement: &Statement) -> Vec<u8> {
    let denial = key_evidence("clara", &clerk(), statement, Verdict::Deny);
    canonical::encode(&Evidence { verdict: Verdict::Approve, ..denial }).unwrap()
}
