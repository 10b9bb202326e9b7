//! Conversations that `previous_response_id` continues.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// The most bytes of all conversations; the oldest are dropped for new ones.
const BYTES: usize = 16 << 20;

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
    messages: Vec<Value>,
    bytes: usize,
}

/// A conversation whose answer is being written.
pub(crate) struct Record {
    owner: String,
    messages: Vec<Value>,
    text: String,
    calls: Vec<Value>,
}

impl Record {
    pub(super) fn new(owner: String, messages: Vec<Value>) -> Self {
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
        let Record { owner, mut messages, text, calls } = record;
        let mut answer = json!({ "role": "assistant", "content": text });
        if !calls.is_empty() {
            answer["tool_calls"] = calls.into();
        }
        messages.push(answer);
        // A value takes a multiple of its JSON.
        let bytes = 4 * messages.iter().map(|message| message.to_string().len()).sum::<usize>();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back(Conversation { owner, id: id.to_owned(), messages, bytes });
        while all.iter().map(|one| one.bytes).sum::<usize>() > BYTES {
            all.pop_front();
        }
    }

    /// The messages of a client's conversation up to this response.
    pub(super) fn get(&self, owner: &str, id: &str) -> Option<Vec<Value>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|one| one.owner == owner && one.id == id)?;
        Some(found.messages.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_conversations_are_dropped() {
        let kept = Kept::default();
        let text = "x".repeat(BYTES / 16);
        for id in ["a", "b", "c", "d", "e"] {
            let record = Record::new("me".to_owned(), vec![json!({ "content": text })]);
            kept.add(id, record);
        }
        assert!(kept.get("me", "a").is_none() && kept.get("you", "e").is_none());
        assert_eq!(kept.get("me", "e").map(|messages| messages.len()), Some(2));
    }
}
