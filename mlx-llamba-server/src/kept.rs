//! Conversations that `previous_response_id` continues.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

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
    /// The client, who is the only one to continue it.
    owner: String,
    id: String,
    /// A JSON list.
    messages: String,
}

impl Conversation {
    fn bytes(&self) -> usize {
        self.messages.len() + OVERHEAD
    }
}

/// A conversation whose answer is being written.
pub(crate) struct Record {
    owner: String,
    messages: String,
    text: String,
    calls: Vec<Value>,
}

impl Record {
    pub(super) fn new(owner: String, messages: &[Value]) -> Self {
        let messages = messages.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
        Self { owner, messages, text: String::new(), calls: Vec::new() }
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
        let Record { owner, messages, text, calls } = record;
        let mut answer = json!({ "role": "assistant", "content": text });
        if !calls.is_empty() {
            answer["tool_calls"] = calls.into();
        }
        let comma = if messages.is_empty() { "" } else { "," };
        let messages = format!("[{messages}{comma}{answer}]");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back(Conversation { owner, id: id.to_owned(), messages });
        let mut bytes = HashMap::<String, usize>::new();
        for one in all.iter() {
            *bytes.entry(one.owner.clone()).or_default() += one.bytes();
        }
        // The client that keeps most loses first: one client does not make the server forget the others.
        while bytes.values().sum::<usize>() > BYTES
            && let Some((owner, sum)) = bytes.iter_mut().max_by_key(|(_, sum)| **sum)
            && let Some(at) = all.iter().position(|one| one.owner == *owner)
            && let Some(dropped) = all.remove(at)
        {
            *sum -= dropped.bytes();
        }
    }

    /// The messages of a client's conversation up to this response, as a JSON list.
    pub(super) fn get(&self, owner: &str, id: &str) -> Option<String> {
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
        let add = |owner: &str, id: &str, length: usize| {
            let messages = [json!({ "content": "x".repeat(length) })];
            kept.add(id, Record::new(owner.to_owned(), &messages));
        };
        add("you", "mine", 10);
        for id in ["a", "b", "c", "d", "e"] {
            add("me", id, BYTES / 4);
        }
        assert!(kept.get("me", "b").is_none() && kept.get("you", "e").is_none());
        for (owner, id) in [("me", "c"), ("me", "e"), ("you", "mine")] {
            let messages = kept.get(owner, id).unwrap();
            let messages: Vec<Value> = serde_json::from_str(&messages).unwrap();
            assert_eq!((messages.len(), &messages[1]["role"]), (2, &json!("assistant")));
        }
        kept.add("empty", Record::new("me".to_owned(), &[]));
        assert!(kept.get("me", "empty").unwrap().starts_with("[{"));
    }
}
