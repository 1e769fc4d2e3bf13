//! The policy that the world begins with.

use super::*;

/// A brokerage policy: read the balance (tier 0), move little (tier 1), buy stock (tier 2).
pub fn policy_document(version: u64) -> Value {
    json!({
        "format": "toani-policy/1",
        "tenant": tenant(),
        "id": "brokerage",
        "version": version,
        "not_before": "2026-01-01T00:00:00Z",
        "expires": "2027-01-01T00:00:00Z",
        "namespace": "main",
        "persons": {
            "anna": {"keys": [passkey_entry(40, true)]},
            "ben": {"keys": [passkey_entry(41, false)]},
            "clara": {"keys": [ApproverKey::Ed25519(PublicKey::of(&clerk()))]},
            "dev": {"keys": [passkey_entry(43, false)]},
        },
        "agents": {
            "trader": {"key": {"ed25519": PublicKey::of(&agent())}, "behind": ["dev"]},
            "simple": {"key": {"api_key": toani_protocol::policy::api_key_hash(b"tk_simple")}},
        },
        "credentials": {"broker": {"owner": PublicKey::of(&owner())}},
        "services": {
            "broker": {
                "connector": "direct_api",
                "endpoint": {"host": "api.broker.example", "port": 443},
                "auth": {"credential": "broker", "injection": "bearer"},
                "actions": {
                    "read_balance": {
                        "params": {"type": "object", "properties": {"account": {"type": "string"}},
                                   "required": ["account"]},
                        "request": {"method": "GET", "path": "/v1/accounts/{account}/balance"},
                        "result": {"balance": {"pointer": "/balance", "type": "integer", "required": true}},
                        "tier": 0,
                    },
                    "move": {
                        "params": {"type": "object", "properties": {
                            "amount": {"type": "integer", "minimum": 0, "maximum": 1000}},
                            "required": ["amount"]},
                        "request": {"method": "POST", "path": "/v1/moves",
                                    "body": {"amount": {"$param": "amount"}}},
                        "tier": 1,
                        "raise": [{"when": {"param": "amount", "is": "above", "value": 100}, "tier": 2}],
                        "approval": {"approvers": ["anna", "clara", "dev"], "threshold": 1, "wait_s": 60},
                    },
                    "buy_stock": {
                        "params": {"type": "object", "properties": {
                            "symbol": {"type": "string", "enum": ["ACME", "INIT"]},
                            "quantity": {"type": "integer", "minimum": 1, "maximum": 100}},
                            "required": ["symbol", "quantity"]},
                        "request": {"method": "POST", "path": "/v1/orders",
                                    "body": {"symbol": {"$param": "symbol"}, "quantity": {"$param": "quantity"}}},
                        "result": {"order": {"pointer": "/id", "type": "string"}},
                        "tier": 2,
                        "approval": {"approvers": ["anna", "ben", "dev"], "threshold": 2, "wait_s": 600},
                    },
                },
            },
        },
        "quotas": {
            "shares": {"measure": {"sum": "quantity"}, "per": "policy", "window": {"fixed_s": 86400},
                       "limit": 150, "actions": ["broker.buy_stock"]},
            "reads": {"measure": "count", "per": "agent", "window": {"rolling_s": 60}, "limit": 40},
        },
    })
}

pub fn sign_policy(document: Value, key: &SigningKey) -> Vec<u8> {
    let policy: Policy = serde_json::from_value(document).unwrap();
    canonical::encode(&Signed::by(key, Label::Policy, policy).unwrap()).unwrap()
}
