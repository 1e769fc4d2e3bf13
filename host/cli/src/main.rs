//! `toani`: for those who run the plane, own credentials, write policies, approve, and ask.

mod admission;
mod agents;
mod approvals;
mod attestation;
mod audit;
mod ca;
mod certs;
mod chip;
mod client;
mod credentials;
mod draft;
mod executions;
mod failure;
mod hand_over;
mod hidden;
mod home;
mod init;
mod keys;
mod output;
mod passkey;
mod policies;
mod policy_keys;
mod run;
mod sandbox;
mod serve;
mod status;
mod tee;
mod tokens;
mod virtual_machine;
mod windows;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    client::{Client, Links},
    failure::Failure,
    home::Home,
    output::Output,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or denied; the reason's stable code is in the message
  2  the command line is wrong
  3  the plane does not answer; is `toani serve` running?
  4  nobody approved in the time that was given
  5  a file or key on this side is missing, broken or does not fit
";

/// The execution plane for AI agents: they act, and never hold a credential.
#[derive(Debug, Parser)]
#[command(name = "toani", version, after_help = EXIT_CODES)]
struct Arguments {
    /// Where keys, policies and the trust file are.
    #[arg(long, global = true, env = "TOANI_HOME", default_value_os_t = home::default())]
    home: PathBuf,
    #[command(flatten)]
    links: Links,
    /// JSON on standard output, for machines.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an instance, a tenant, keys and a trust file. Example: toani init
    Init(init::Init),
    /// Run the plane. Example: toani serve
    Serve(Box<serve::Serve>),
    /// Certificates for links beyond this machine. Example: toani cert init
    #[command(subcommand)]
    Cert(certs::Cert),
    /// What runs, and what is proven about it. Example: toani status
    Status,
    /// The running instance. Example: toani instance show
    #[command(subcommand)]
    Instance(attestation::Instance),
    /// Evidence of what runs. Example: toani attestation verify instance.json
    #[command(subcommand)]
    Attestation(attestation::Attestation),
    /// Upgrade the image, or move to another machine. Example: toani hand-over ask --out request.json
    #[command(subcommand)]
    HandOver(hand_over::HandOverCommand),
    /// Admit a sandbox. Example: toani admission admit --sandbox
    #[command(subcommand)]
    Admission(admission::Admission),
    /// Seal, replace, revoke and list credentials. Example: toani credential list
    #[command(subcommand)]
    Credential(credentials::Credential),
    /// Write, check, sign and activate policies. Example: toani policy new
    #[command(subcommand)]
    Policy(policies::PolicyCommand),
    /// Agents. Example: toani agent add trader --policy policy.yaml
    #[command(subcommand)]
    Agent(agents::Agent),
    /// Persons who approve. Example: toani approver add anna --software-passkey --policy policy.yaml
    #[command(subcommand)]
    Approver(agents::Approver),
    /// What waits for people. Example: toani approvals list
    #[command(subcommand)]
    Approvals(approvals::Approvals),
    /// Approve one action, after looking at its plan. Example: toani approve act_... --as anna
    Approve(approvals::Answer),
    /// Deny one action; that is final. Example: toani deny act_... --as anna
    Deny(approvals::Answer),
    /// Action Tokens. Example: toani token revoke act_...
    #[command(subcommand)]
    Token(tokens::Token),
    /// Act as an agent. Example: toani run broker.read_balance --params '{"account":"main"}'
    Run(run::Run),
    /// What was executed. Example: toani executions list
    #[command(subcommand)]
    Executions(executions::Executions),
    /// Proof for others. Example: toani audit export --out bundle.tar
    #[command(subcommand)]
    Audit(audit::Audit),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // What is said of a wrong command line is JSON too, where that is asked for.
        Err(error)
            if error.use_stderr() && std::env::args().any(|argument| argument == "--json") =>
        {
            return Output::new(true).failed(&Failure::Usage(error.to_string()).into());
        }
        Err(error) => error.exit(),
    };
    let output = Output::new(arguments.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failed(&anyhow::Error::from(error)),
    };
    match runtime.block_on(dispatch(arguments, &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output.failed(&error),
    }
}

async fn dispatch(arguments: Arguments, output: &Output) -> anyhow::Result<()> {
    let home = Home::new(arguments.home);
    let client = Client::new(&home, arguments.links);
    match arguments.command {
        Command::Init(command) => init::run(command, &home, output).await,
        Command::Serve(command) => serve::run(*command, &home, output).await,
        Command::Cert(command) => certs::run(command, &home, output),
        Command::Status => status::run(&client, output).await,
        Command::Instance(command) => attestation::instance(command, &home, &client, output).await,
        Command::Attestation(command) => attestation::run(command, &home, output),
        Command::HandOver(command) => hand_over::run(command, &home, &client, output).await,
        Command::Admission(command) => admission::run(command, &home, &client, output).await,
        Command::Credential(command) => credentials::run(command, &home, &client, output).await,
        Command::Policy(command) => policies::run(command, &home, &client, output).await,
        Command::Agent(command) => agents::run(command, &home, &client, output).await,
        Command::Approver(command) => agents::run_approver(command, &home, output),
        Command::Approvals(command) => approvals::run(command, &client, output).await,
        Command::Approve(command) => {
            approvals::answer(
                command,
                toani_protocol::approval::Verdict::Approve,
                &home,
                &client,
                output,
            )
            .await
        }
        Command::Deny(command) => {
            approvals::answer(
                command,
                toani_protocol::approval::Verdict::Deny,
                &home,
                &client,
                output,
            )
            .await
        }
        Command::Token(command) => tokens::run(command, &home, &client, output).await,
        Command::Run(command) => run::run(command, &home, &client, output).await,
        Command::Executions(command) => executions::run(command, &home, &client, output).await,
        Command::Audit(command) => audit::run(command, &home, &client, output).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Words as a shell makes them of the examples, which quote with `'` only.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('\'').enumerate();
        let split = |(i, part): (usize, &str)| match i % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        };
        parts.flat_map(split).collect()
    }

    fn check(command: &clap::Command, path: &str) {
        let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
        let example = about.split_once("Example: ").map(|(_, line)| line);
        for inner in command.get_subcommands() {
            check(inner, &format!("{path} {}", inner.get_name()));
        }
        let Some(example) = example else {
            assert!(command.has_subcommands(), "{path} has no example");
            return;
        };
        assert!(example.starts_with(path), "{path}: {example}");
        let id = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let words = words(&example.replace("_...", &format!("_{id}")));
        Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
    }

    #[test]
    fn every_command_has_an_example_that_holds() {
        let command = Arguments::command();
        for inner in command.get_subcommands() {
            check(inner, &format!("toani {}", inner.get_name()));
        }
    }
}
