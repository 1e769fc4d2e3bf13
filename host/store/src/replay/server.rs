//! What makes a Redis a replay store: it remembers what it is told, until it is told to forget.

use super::ReplayError;

/// `SET` with `NX` and `PX` is older; what is tested is 7.
const MAJOR_MIN: u32 = 7;

/// Judges what a Redis says of itself in `INFO`, which needs no `CONFIG` and so passes narrower
/// access rules.
pub(super) fn judge(info: &str) -> Result<(), ReplayError> {
    let unfit = |why: String| Err(ReplayError::Unfit(why));
    let field = |name: &str| {
        let of =
            |line: &str| line.trim_end().strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
        let found = info.lines().find_map(of);
        found.ok_or_else(|| ReplayError::Unfit(format!("its INFO does not tell {name}")))
    };
    let version = field("redis_version")?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < MAJOR_MIN) {
        return unfit(format!(
            "it is Redis {}; {MAJOR_MIN} or newer is needed",
            version.escape_debug()
        ));
    }
    let policy = field("maxmemory_policy")?;
    if policy != "noeviction" {
        return unfit(format!(
            "its maxmemory-policy is {}, so that it forgets redeemed tokens when memory is short; \
             set `maxmemory-policy noeviction`",
            policy.escape_debug()
        ));
    }
    if field("role")? != "master" {
        return unfit("it is a replica, which cannot be written; name the primary".to_owned());
    }
    if field("cluster_enabled")? != "0" {
        return unfit("it is a node of a cluster; name a Redis by itself".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n\
                        role:master\r\ncluster_enabled:0\r\n";

    #[test]
    fn a_redis_that_would_forget_or_cannot_be_written_is_refused() {
        assert_eq!(judge(GOOD), Ok(()));
        for (from, to, says) in [
            ("7.0.15", "6.2.1", "7 or newer"),
            ("7.0.15", "x\u{1b}[2J", "7 or newer"),
            ("noeviction", "allkeys-lru", "maxmemory-policy noeviction"),
            ("noeviction", "volatile-ttl", "maxmemory-policy noeviction"),
            ("master", "slave", "replica"),
            ("cluster_enabled:0", "cluster_enabled:1", "cluster"),
            ("role:master\r\n", "", "does not tell role"),
        ] {
            let refusal = judge(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(refusal.contains(says) && !refusal.contains('\u{1b}'), "{refusal}");
        }
        assert!(judge("OK").is_err());
    }
}
