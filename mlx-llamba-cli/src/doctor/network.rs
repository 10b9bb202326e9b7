//! Checks of the hub: its token, and its answer.

use mlx_llamba::hub::{HubOptions, reach};
use serde_json::json;

use super::Finding;

/// Checks the hub. Sends nothing unless `ask` is set.
pub(super) fn look(ask: bool, offline: bool) -> Vec<Finding> {
    // Problems with the options are reported by the check of the cache.
    let Ok(mut options) = HubOptions::from_env() else { return Vec::new() };
    let has_token = options.token.is_some();
    let bad = options.token.as_ref().filter(|t| !t.bytes().all(|byte| byte.is_ascii_graphic()));
    let token = match (&options.token, bad) {
        (None, _) => Finding::good(
            "token",
            "none: gated repositories, such as Llama's tokenizer, need one in HF_TOKEN",
        ),
        (Some(_), None) => Finding::good("token", "there is one (not shown)"),
        (Some(_), Some(_)) => Finding::problem(
            "token",
            "HF_TOKEN, or the file that holds it, has characters that are not allowed in a token",
            "create a new token on the hub's website and set HF_TOKEN",
        ),
    };
    let malformed = bad.is_some();
    let token = token.with(json!({ "present": has_token }));
    options.offline |= offline;
    options.retries = 0;
    let address = options.endpoint.clone().unwrap_or_else(|| "the public hub".to_owned());
    let hub = match (options.offline, ask) {
        (true, _) => {
            let text = format!("{address}: not asked, --offline or HF_HUB_OFFLINE is set");
            Finding::good("hub", text)
        }
        (false, false) => Finding::good("hub", format!("{address}: not asked; --hub asks it")),
        (false, true) if malformed => {
            Finding::problem("hub", format!("{address}: not asked"), "fix the token first")
        }
        (false, true) => match reach(&options) {
            Ok(Some(account)) => {
                Finding::good("hub", format!("{address} answers; the token belongs to {account}"))
            }
            Ok(None) => Finding::good("hub", format!("{address} answers")),
            Err(error) => {
                let text = error.to_string();
                let (text, help) = text.rsplit_once("; ").unwrap_or((&text, "check the network"));
                Finding::problem("hub", text, help)
            }
        },
    };
    vec![token, hub]
}
