//! Devices of homes with fewer slots than devices. Each one takes a slot, keeps it with
//! heartbeats for a while, and releases it or lets it expire.

use serde_json::json;

use super::caller::Caller;
use super::{TERMS, changed, hash};
use crate::client::Client;
use crate::history::recorder::Outcome;
use crate::history::slot::Slot;

/// A device of a home.
pub async fn device(mut caller: Caller, group: usize, member: usize) {
    let account = format!("home-{group}");
    let account = account.as_str();
    while caller.goes_on() {
        caller.turn();
        let request = json!({ "accountId": account, "deviceId": format!("device-{member}") });
        let ask = |client: Client| async move { client.viewing("CreateSession", request).await };
        let Outcome::Answered(span, Ok(created)) = caller.call(ask).await else { continue };
        let (Some(answered), Some(id)) = (span.answered, created["sessionId"].as_str()) else {
            continue;
        };
        changed(&caller, span, account, "viewing.created", &hash(id));
        let mut at = 0;
        caller.recorder.add(|history| {
            let slots = history.slots.entry(account.into()).or_default();
            at = slots.len();
            slots.push(Slot { acknowledged: vec![(span.sent, answered)], ended: None });
        });
        keep(&mut caller, account, id, at).await;
    }
}

/// Sends heartbeats for a while, and then releases the slot in two of three cases.
async fn keep(caller: &mut Caller, account: &str, id: &str, at: usize) {
    let request = json!({ "accountId": account, "sessionId": id });
    let slot = |caller: &Caller, change: &dyn Fn(&mut Slot)| {
        caller.recorder.add(|history| {
            if let Some(slots) = history.slots.get_mut(account) {
                change(&mut slots[at]);
            }
        });
    };
    for _ in 0..caller.chance(4) {
        tokio::time::sleep(TERMS.slot / 6).await;
        let request = request.clone();
        let ask = |client: Client| async move { client.viewing("HeartBeat", request).await };
        let outcome = caller.call(ask).await;
        let Outcome::Answered(span, result) = outcome else { continue };
        let Some(answered) = span.answered else { continue };
        if result.is_err() {
            slot(caller, &|slot| slot.ended = Some(answered));
            return;
        }
        slot(caller, &|slot| slot.acknowledged.push((span.sent, answered)));
    }
    if caller.chance(3) == 0 {
        return;
    }
    let now = caller.recorder.now();
    slot(caller, &|slot| slot.ended = Some(now));
    let ask = |client: Client| async move { client.viewing("TearDown", request).await };
    caller.call(ask).await;
}
