//! Conversations that `previous_response_id` continues.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::request::messages::ChatMessage;

/// The most bytes of all conversations; the oldest are dropped for new ones.
const BYTES: usize = 16 << 20;
/// Bytes that a conversation counts for beside its text.
const OVERHEAD: usize = 1024;

/// A call of a tool with an id of its own.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// The last conversations, in memory only. What the model read of them is in its prefix cache.
#[derive(Default)]
pub(crate) struct Kept(Mutex<VecDeque<Conversation>>);

struct Conversation {
    /// The client, who is the only one to continue it; nobody is told from others without keys.
    owner: String,
    /// The key or the address that it counts for.
    keeper: String,
    id: String,
    /// A JSON list.
    messages: Arc<str>,
}

impl Conversation {
    fn bytes(&self) -> usize {
        self.messages.len() + OVERHEAD
    }
}

/// A conversation whose answer is being written.
pub(crate) struct Record {
    owner: String,
    keeper: String,
    messages: String,
    text: String,
    calls: Vec<Value>,
}

impl Record {
    /// # Errors
    /// JSON's, which are not expected.
    pub(super) fn new(
        owner: &str,
        keeper: &str,
        messages: &[ChatMessage],
    ) -> Result<Self, serde_json::Error> {
        let messages: Vec<String> = messages
            .iter()
            .map(|message| serde_json::to_string(&message.0))
            .collect::<Result<_, _>>()?;
        let (owner, keeper) = (owner.to_owned(), keeper.to_owned());
        Ok(Self {
            owner,
            keeper,
            messages: messages.join(","),
            text: String::new(),
            calls: Vec::new(),
        })
    }

    /// The memory for it, apart from the answer.
    pub(crate) fn bytes(&self) -> usize {
        self.messages.len()
    }

    /// Adds a part of the answer.
    pub(crate) fn add(&mut self, text: &str, calls: &[Called]) {
        self.text.push_str(text);
        self.calls.extend(calls.iter().map(|Called { id, name, arguments }| {
            let function = json!({ "name": name, "arguments": arguments });
            json!({ "id": id, "type": "function", "function": function })
        }));
    }
}

impl Kept {
    /// Keeps a conversation whose answer is complete.
    pub(crate) fn add(&self, id: &str, record: Record) {
        let Record { owner, keeper, messages, text, calls } = record;
        let mut answer = json!({ "role": "assistant", "content": text });
        if !calls.is_empty() {
            answer["tool_calls"] = calls.into();
        }
        let comma = if messages.is_empty() { "" } else { "," };
        let messages = format!("[{messages}{comma}{answer}]").into();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back(Conversation { owner, keeper, id: id.to_owned(), messages });
        let mut bytes = HashMap::<String, usize>::new();
        for one in all.iter() {
            *bytes.entry(one.keeper.clone()).or_default() += one.bytes();
        }
        // The client that keeps most loses first: one client does not make the server forget the others.
        while bytes.values().sum::<usize>() > BYTES
            && let Some((keeper, sum)) = bytes.iter_mut().max_by_key(|(_, sum)| **sum)
            && let Some(at) = all.iter().position(|one| one.keeper == *keeper)
            && let Some(dropped) = all.remove(at)
        {
            *sum -= dropped.bytes();
        }
    }

    /// The messages of a client's conversation up to this response, as a JSON list.
    pub(super) fn get(&self, owner: &str, id: &str) -> Option<Arc<str>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|one| one.owner == owner && one.id == id)?;
        Some(found.messages.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_oldest_conversations_of_who_keeps_most_are_dropped() {
        let kept = Kept::default();
        let add = |owner: &str, keeper: &str, id: &str, length: usize| {
            let messages = format!(r#"{{"content":"{}"}}"#, "x".repeat(length));
            let empty = Record::new(owner, keeper, &[]).unwrap();
            kept.add(id, Record { messages, ..empty });
        };
        add("you", "you", "mine", 10);
        for id in ["a", "b", "c", "d", "e"] {
            add("me", "me", id, BYTES / 4);
        }
        assert!(kept.get("me", "b").is_none() && kept.get("you", "e").is_none());
        for (owner, id) in [("me", "c"), ("me", "e"), ("you", "mine")] {
            let messages = kept.get(owner, id).unwrap();
            let messages: Vec<Value> = serde_json::from_str(&messages).unwrap();
            assert_eq!((messages.len(), &messages[1]["role"]), (2, &json!("assistant")));
        }
        kept.add("empty", Record::new("me", "me", &[]).unwrap());
        assert!(kept.get("me", "empty").unwrap().starts_with("[{"));
        // Without keys, each may continue all of them, and yet one address does not drop the others'.
        add("", "10.0.0.1", "first", 10);
        for id in 0..10 {
            add("", "10.0.0.2", &id.to_string(), BYTES / 4);
        }
        assert!(kept.get("", "first").is_some() && kept.get("", "9").is_some());
        assert!(kept.get("", "0").is_none());
        add("", "10.0.0.2", "larger than all", BYTES);
        assert!(kept.get("", "first").is_some() && kept.get("", "larger than all").is_none());
    }
}
