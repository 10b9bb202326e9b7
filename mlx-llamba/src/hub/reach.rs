//! Checks that the hub answers and accepts the token.

use serde_json::Value;

use super::failure::{Failure, hub};
use super::remote::{Follow, Remote};
use super::{HubOptions, PUBLIC};
use crate::Result;

/// Sends the hub a request, with the token if there is one, and returns the name of the token's
/// account if the hub tells it.
///
/// # Errors
/// [`Error::Hub`](crate::Error::Hub) if it does not answer or refuses the token.
pub fn reach(options: &HubOptions) -> Result<Option<String>> {
    let endpoint = options.endpoint.as_deref().unwrap_or(PUBLIC);
    let remote = Remote::new(endpoint, "main", options)?;
    let answer = match &options.token {
        Some(_) => remote.ask(false, &format!("{endpoint}/api/whoami-v2"), Follow::SameHost, 0),
        None => remote.ask(true, &format!("{endpoint}/"), Follow::SameHost, 0),
    };
    match answer {
        Ok(response) => {
            let body = response.into_body().into_with_config().limit(1 << 20).read_to_vec();
            let account: Option<Value> = serde_json::from_slice(&body.unwrap_or_default()).ok();
            Ok(account.and_then(|account| Some(account.get("name")?.as_str()?.to_owned())))
        }
        Err(Failure::Status { status: 401 | 403, .. }) if options.token.is_some() => Err(hub(
            endpoint,
            format!(
                "the hub refuses the token; create one on {endpoint}/settings/tokens and set \
                 HF_TOKEN, or unset it"
            ),
        )),
        // It answers, whatever it says.
        Err(Failure::Status { status, .. }) if status < 500 => Ok(None),
        Err(failure) => Err(remote.explain(failure)),
    }
}
