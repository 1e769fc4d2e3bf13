//! What the model says of actions, executions and answers.

use std::collections::BTreeSet;

use toani_audit::{checkpoint::Checkpoint, tree::node_hash};
use toani_protocol::{
    ExecutionId, Hash,
    approval::Verdict,
    canonical,
    job::JobMessage,
    limits::TOKEN_LIFE_MS_MAX,
    plan::Plan,
    policy::Tier,
    record::{Record, RecordKind},
    request::ActionRequest,
    wire::{ActionState, ActionStatus, Answer, Call, Command},
};

use super::{
    Kind, Watched, breach, ensure,
    model::{Asked, Model},
    people,
};
use crate::world::*;

/// What an agent wants, and under which key.
fn wish(request: &ActionRequest) -> impl PartialEq + '_ {
    (
        (&request.tenant, &request.agent, &request.idempotency_key),
        (&request.user, &request.service, &request.action, &request.params),
    )
}

impl Model {
    /// The request that the call brings; it has to be its agent's.
    fn genuine(&self, call: &Call) -> Watched<ActionRequest> {
        let (Command::Decide { request, proof } | Command::Execute { request, proof, .. }) =
            &call.command
        else {
            return breach(Kind::Forgery, "an action that nobody has asked for");
        };
        let genuine = self.documents.is_request(request, proof);
        ensure(genuine, Kind::Forgery, "a request counts that its agent did not sign")?;
        Ok(ActionRequest::decode(request).unwrap())
    }

    pub(super) fn allowed(&mut self, call: &Call, record: &Record) -> Watched {
        let request = self.genuine(call)?;
        self.as_asked(&request, record)?;
        let waits = record.kind == RecordKind::Waiting;
        let human = people::tier(&request) > Tier::Zero;
        ensure(waits == human, Kind::Approval, "a token without the people who have to approve")?;
        let life = if waits { people::wait_ms(&request) } else { TOKEN_LIFE_MS_MAX };
        let asked = Asked {
            request,
            approved: BTreeSet::new(),
            expires: record.time.plus_ms(life),
            void: false,
            hashes: (record.about.plan, record.about.params),
        };
        self.asked.insert(record.about.action_id.clone().unwrap(), asked);
        Ok(())
    }

    pub(super) fn approved(&mut self, call: &Call, record: &Record) -> Watched {
        let approval = |holds, what| ensure(holds, Kind::Approval, what);
        let answer = match &call.command {
            Command::Approve { evidence } => self.documents.answers.get(evidence),
            _ => None,
        };
        let Some(answer) = answer else {
            return breach(Kind::Approval, "an approval that nobody gave");
        };
        approval(record.about.action_id.as_ref() == Some(&answer.action), "another's approval")?;
        approval(answer.verdict == Verdict::Approve, "a denial counts as an approval")?;
        let Some(asked) = self.asked.get_mut(&answer.action) else {
            return breach(Kind::Approval, "an approval of what nobody has asked for");
        };
        let in_time = !asked.void && record.time < asked.expires;
        approval(in_time, "an approval counts after its end")?;
        let may = people::approvers(&asked.request).contains(&answer.person.as_str());
        approval(may, "an approval counts of who may not approve")?;
        let strong = people::tier(&asked.request) < Tier::Two || answer.verified;
        approval(strong, "an approval counts that is too weak")?;
        approval(asked.approved.insert(answer.person.clone()), "one person counts twice")?;
        if record.kind == RecordKind::Approved {
            approval(is_approved(asked), "an action is approved by too few")?;
            asked.expires = record.time.plus_ms(TOKEN_LIFE_MS_MAX);
        }
        Ok(())
    }

    pub(super) fn started(&mut self, call: &Call, record: &Record) -> Watched {
        let request = self.genuine(call)?;
        self.as_asked(&request, record)?;
        let about = &record.about;
        let once = |holds, what| ensure(holds, Kind::SecondUse, what);
        once(self.jtis.insert(about.jti.unwrap()), "a token is redeemed twice")?;
        let action = about.action_id.as_ref().unwrap();
        once(!self.fold.started.contains(action), "an action is executed twice")?;
        let used = self.fold.is_used(&request, record.time);
        once(!used, "an idempotency key starts another execution")?;
        match &call.command {
            Command::Execute { token: Some(token), .. } => {
                self.redeemed(token, &request, record)?;
            }
            _ => {
                let direct = people::tier(&request) == Tier::Zero;
                ensure(direct, Kind::Approval, "an action runs without the token it needs")?;
            }
        }
        let (policy, _) = &self.documents.policies[&about.policy.as_ref().unwrap().hash];
        let document = |hash: &Hash| self.documents.policies.get(hash).map(|(policy, _)| policy);
        if let Some(quota) = self.fold.overdrawn(policy, &request, record.time, document) {
            return breach(Kind::Quota, format!("the quota {quota} is overdrawn"));
        }
        self.runs_as_admitted(record)?;
        let execution = about.execution_id.clone().unwrap();
        self.agents.insert(execution, (request.tenant, request.agent));
        Ok(())
    }

    /// What is redeemed is what was asked for and approved.
    fn redeemed(&self, token: &str, request: &ActionRequest, record: &Record) -> Watched {
        let action = record.about.action_id.as_ref().unwrap();
        let issued = self.documents.tokens.get(token) == Some(action);
        ensure(issued, Kind::Forgery, "a token is redeemed that was not issued for it")?;
        let asked = &self.asked[action];
        let approval = |holds, what| ensure(holds, Kind::Approval, what);
        approval(wish(&asked.request) == wish(request), "what runs is not what was asked for")?;
        let same = asked.hashes == (record.about.plan, record.about.params);
        approval(same, "what runs is not what was approved")?;
        approval(!asked.void, "a token is redeemed that was denied or revoked")?;
        approval(is_approved(asked), "a token is redeemed without its approvals")?;
        ensure(record.time < asked.expires, Kind::SecondUse, "a token is redeemed after its end")
    }

    pub(super) fn answered(&mut self, call: &Call, answer: &Answer) -> Watched {
        match (&call.command, answer) {
            (Command::Release { execution }, _) => self.released(execution),
            (Command::Decide { .. } | Command::Poll { .. }, Answer::Action(status)) => {
                self.told(call, status)
            }
            (Command::Execute { .. }, Answer::Redeemed(redeemed)) => {
                let started = self.fold.open.contains(&redeemed.execution);
                ensure(started, Kind::Log, "an execution without its record")
            }
            (Command::Execute { .. }, Answer::Earlier(earlier)) => {
                let request = self.genuine(call)?;
                let own = self.fold.uses.get(&earlier.execution);
                let own = own.is_some_and(|own| wish(&own.request) == wish(&request));
                ensure(own, Kind::Forgery, "an answer of another request")
            }
            (Command::Open { execution, read, .. }, _) => {
                let own = self.agents.get(execution) == people::reader(read).as_ref();
                ensure(own, Kind::Forgery, "a result is read by another agent")
            }
            (Command::Durable { size }, Answer::Checkpoint { note, .. }) => {
                self.checkpoint(*size, note)
            }
            (Command::Status, Answer::Facts(facts)) => {
                let same = (facts.size, facts.durable) == (self.fold.size(), self.durable);
                ensure(same, Kind::Log, "the log has another size than its records")
            }
            _ => Ok(()),
        }
    }

    /// A job may leave: once, when its record is durable, with what its owner has not ended.
    fn released(&mut self, execution: &ExecutionId) -> Watched {
        let once = self.released.insert(execution.clone());
        ensure(once, Kind::SecondUse, "a job is released twice")?;
        let record = self.start_of(execution)?;
        let durable = record.index < self.durable;
        ensure(durable, Kind::Log, "a job is released before its record is durable")?;
        self.runs_as_admitted(record)?;
        let Some(named) = record.about.credential.clone() else { return Ok(()) };
        let name = (record.about.tenant.clone().unwrap(), named.owner, named.id);
        let holds = self.fold.credentials.get(&name) == Some(&(named.version, false));
        ensure(holds, Kind::Authority, "a credential leaves that was revoked or replaced")
    }

    /// An execution runs in what the operators admit now.
    fn runs_as_admitted(&self, record: &Record) -> Watched {
        let list = self.fold.list;
        let admitted = list.and_then(|(hash, _)| self.documents.root_file_system(&hash));
        let same = admitted.is_some() && record.about.root_file_system == admitted;
        ensure(same, Kind::Authority, "an execution with another root file system than admitted")
    }

    /// The record `started` of an execution that is open.
    fn start_of(&self, execution: &ExecutionId) -> Watched<&Record> {
        let open = self.fold.open.contains(execution);
        ensure(open, Kind::Log, "a job of what has ended or never began")?;
        let records = self.fold.lines.iter().map(|line| &line.record);
        let mut starts = records.filter(|record| record.kind == RecordKind::Started);
        Ok(starts.find(|record| record.about.execution_id.as_ref() == Some(execution)).unwrap())
    }

    /// A job that has arrived at the supervisor, out of the channel.
    pub(super) fn job(&mut self, message: &JobMessage) -> Watched {
        let execution = &message.execution;
        ensure(self.jobs.insert(execution.clone()), Kind::SecondUse, "a job leaves twice")?;
        ensure(self.released.contains(execution), Kind::Log, "a job that nobody released")?;
        let records = self.fold.lines.iter().map(|line| &line.record);
        let record = records
            .filter(|record| record.kind == RecordKind::Started)
            .find(|record| record.about.execution_id.as_ref() == Some(execution));
        let Some(record) = record else { return breach(Kind::Log, "a job without its record") };
        let request = &self.fold.uses[execution].request;
        let plan: Plan = canonical::decode(&message.job.plan, usize::MAX).unwrap();
        let same = record.about.plan == Some(Plan::hash_of(&message.job.plan))
            && record.about.jti == Some(message.jti)
            && record.about.root_file_system == Some(message.root_file_system)
            && people::is_plan_of(&plan, request);
        ensure(same, Kind::Approval, "a job is not what was approved")?;
        let named = record.about.credential.as_ref().unwrap();
        let value = self.documents.values.get(&(named.owner, named.version));
        let own = value.is_some_and(|values| values.contains(&message.job.credential));
        ensure(own, Kind::Authority, "a job has another credential than its owner's")
    }

    /// What became of an action is told to its agent, and a token only when it is due.
    fn told(&mut self, call: &Call, status: &ActionStatus) -> Watched {
        let ActionStatus { action, state } = status;
        let reader = match &call.command {
            Command::Poll { read, .. } => people::reader(read),
            _ => Some(self.genuine(call)?).map(|request| (request.tenant, request.agent)),
        };
        let own = |request: &ActionRequest| {
            reader.as_ref() == Some(&(request.tenant.clone(), request.agent.clone()))
        };
        if let ActionState::Executed { execution } = state {
            let own = self.fold.uses.get(execution).is_some_and(|use_| own(&use_.request));
            return ensure(own, Kind::Forgery, "an execution is told to another agent");
        }
        let Some(asked) = self.asked.get(action) else {
            return breach(Kind::Forgery, "an action that nobody has asked for");
        };
        ensure(own(&asked.request), Kind::Forgery, "an action is told to another agent")?;
        if let ActionState::Token { token, .. } = state {
            let due = !asked.void && is_approved(asked);
            ensure(due, Kind::Approval, "a token without the approvals it needs")?;
            self.documents.tokens.insert(token.clone(), action.clone());
        }
        Ok(())
    }

    fn checkpoint(&mut self, size: u64, note: &str) -> Watched {
        let log = |holds, what| ensure(holds, Kind::Log, what);
        log(self.durable <= size && size <= self.fold.size(), "a checkpoint of another size")?;
        let key = self.root.as_ref().unwrap().chain_key();
        let Ok(checkpoint) = Checkpoint::verify(note, ORIGIN, &key) else {
            return breach(Kind::Log, "a checkpoint's signature does not hold");
        };
        let size_now = usize::try_from(size).unwrap();
        let same =
            (checkpoint.size, checkpoint.root) == (size, root(&self.fold.hashes[..size_now]));
        self.durable = size;
        log(same, "a checkpoint is not over the log")
    }

    /// The supervisor has answered. What it says of a job counts only if it has the job.
    pub(super) fn outcome(&mut self, execution: &ExecutionId, connected: bool) {
        if !connected && self.jobs.contains(execution) {
            self.unconnected.insert(execution.clone());
        }
    }
}

fn is_approved(asked: &Asked) -> bool {
    asked.approved.len() >= people::threshold(&asked.request)
}

/// RFC 6962, section 2.1.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}
