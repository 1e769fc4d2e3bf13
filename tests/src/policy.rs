//! The policies that the demo and the end-to-end tests use, as a person would write them.

use std::fmt::Write as _;

use crate::Brokerage;

/// Reads, small and large orders at a brokerage on this machine; one action that asks for a TEE.
pub fn brokerage(owner: &str, upstream: &Brokerage, version: u64) -> String {
    let order = r#"
        params:
          type: object
          properties:
            symbol: {type: string, enum: [ACME, INIT]}
            quantity: {type: integer, minimum: 1, maximum: 100}
          required: [symbol, quantity]
        request:
          method: POST
          path: /v1/orders
          body: {symbol: {$param: symbol}, quantity: {$param: quantity}}
        result:
          order: {pointer: /order, type: string, required: true}"#;
    let head = head(owner, upstream, version);
    format!(
        r#"{head}
      read_balance:
        params:
          type: object
          properties: {{account: {{type: string, maxLength: 32}}}}
          required: [account]
        request: {{method: GET, path: "/v1/accounts/{{account}}/balance"}}
        result:
          balance: {{pointer: /balance, type: integer, required: true}}
        tier: 0
      order_direct:{order}
        tier: 0
      buy_stock:{order}
        tier: 2
        approval: {{approvers: [anna], threshold: 1, wait_s: 300}}
      buy_stock_in_sgx:{order}
        tier: 2
        approval: {{approvers: [anna], threshold: 1, wait_s: 300}}
        least: {{tee: sgx}}
quotas:
  orders_a_day:
    measure: count
    per: policy
    window: {{fixed_s: 86400}}
    limit: 500
    actions: [broker.buy_stock, broker.order_direct]
"#
    )
}

/// Reads at a brokerage: wherever connectors are held, beside a browser, and for each of these levels
/// as the least.
pub fn sandboxes(owner: &str, upstream: &Brokerage, levels: &[&str]) -> String {
    // An emulator takes its time.
    let read = r#"
        params: {type: object, properties: {}}
        request: {method: GET, path: /v1/accounts/main/balance}
        result: {balance: {pointer: /balance, type: integer, required: true}}
        tier: 0
        class: {timeout_ms: 120000"#;
    let mut actions = format!("      read_balance:{read}}}\n");
    // Writing to a string cannot fail.
    let _ = writeln!(actions, "      read_balance_as_browser:{read}, root_file_system: browser}}");
    for level in levels {
        let _ = writeln!(actions, "      read_balance_in_{level}:{read}}}");
        let _ = writeln!(actions, "        least: {{sandbox: {level}}}");
    }
    head(owner, upstream, 1) + "\n" + &actions
}

/// Everything before the actions of the brokerage's service.
fn head(owner: &str, upstream: &Brokerage, version: u64) -> String {
    let (host, port, spki) = (upstream.host(), upstream.port(), upstream.spki());
    format!(
        r#"# Who may do what at the brokerage.
id: brokerage
version: {version}
expires: "2099-01-01T00:00:00Z"
namespace: main
persons: {{}}
agents: {{}}
credentials:
  broker: {{owner: "{owner}"}}
services:
  broker:
    connector: direct_api
    endpoint: {{host: {host}, port: {port}, private: true}}
    tls: {{spki_sha256: ["{spki}"]}}
    auth: {{credential: broker, injection: bearer}}
    actions:"#
    )
}
