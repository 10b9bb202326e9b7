//! `POST /v1/chat/completions`

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use mlx_llamba::constraint::Constraint;
use mlx_llamba::template::Json as TemplateJson;
use mlx_llamba::{ChatOptions, Template};
use mlx_llamba_engine::{Prepared, Prompt, Request};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer::{Answer, Form};
use super::tokens::ChatLogprobs;
use super::{App, Call, stream};
use crate::kept::Record;
use crate::problem::Problem;
use crate::request::body::{Body, Object, part};
use crate::request::common::Common;
use crate::request::messages::{ChatMessage, messages};
use crate::request::structured::Structured;
use crate::request::tools::{Callable, Mode, ToolChoice, no_place};
use answer::Chat;
pub(crate) use answer::{ChatChunk, ChatCompletion};

/// A tool, as the chat template wants it: in the order in which it was written.
pub(crate) type Tool = Map<String, Value>;

/// The fields of a chat request that completions do not have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Fields {
    #[schemars(length(min = 1))]
    pub(super) messages: Vec<ChatMessage>,
    pub(super) logprobs: Option<bool>,
    /// The number of most likely tokens to report; needs `logprobs`.
    #[schemars(range(min = 0, max = 20))]
    pub(super) top_logprobs: Option<u32>,
    /// `none` keeps the tools from the model, `required` makes it call one.
    pub(super) tool_choice: Option<ToolChoice>,
    /// `false`: at most one call in a message.
    pub(super) parallel_tool_calls: Option<bool>,
    /// Continue the last message instead of replying to it. The answer has what follows.
    pub(super) continue_final_message: Option<bool>,
    /// The opposite of `continue_final_message`.
    pub(super) add_generation_prompt: Option<bool>,
}

/// The fields that go to the chat template.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct TemplateFields {
    /// Functions that the model can call.
    #[schemars(length(max = 128))]
    pub(super) tools: Option<Vec<Tool>>,
    /// Variables of the chat template.
    #[schemars(with = "Option<BTreeMap<String, Value>>")]
    pub(super) chat_template_kwargs: Option<BTreeMap<String, TemplateJson>>,
    /// A variable of some chat templates; others have no use for it.
    pub(super) reasoning_effort: Option<String>,
}

/// A request for the next message of a conversation.
#[derive(Debug, JsonSchema)]
pub(crate) struct ChatRequest {
    #[serde(flatten)]
    pub(super) common: Common,
    #[serde(flatten)]
    pub(super) structured: Structured,
    #[serde(flatten)]
    pub(super) chat: Fields,
    #[serde(flatten)]
    pub(super) template: TemplateFields,
}

impl Body for ChatRequest {
    const FREE: &'static [&'static str] = &[
        "chat_template_kwargs",
        "guided_json",
        "messages",
        "model",
        "response_format",
        "structured_outputs",
        "tool_choice",
        "tools",
    ];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        Ok(Self {
            common: part(object)?,
            structured: part(object)?,
            chat: part(object)?,
            template: part(object)?,
        })
    }

    fn model(&self) -> Option<&str> {
        self.common.model.as_deref()
    }
}

/// `POST /v1/chat/completions`, and the same in a session.
pub(crate) async fn create(app: Arc<App>, call: Call<ChatRequest>) -> Result<Response, Problem> {
    respond::<Chat>(app, call, None).await
}

/// Answers a chat request in the form of an endpoint; the conversation is kept with its `record`.
pub(crate) async fn respond<F: Form<Logprobs = ChatLogprobs>>(
    app: Arc<App>,
    mut call: Call<ChatRequest>,
    record: Option<Record>,
) -> Result<Response, Problem> {
    let streams = call.body.common.stream.unwrap_or(false);
    let usage = call.body.common.usage_wanted();
    let logprobs = call.body.chat.logprobs.unwrap_or(false);
    let client = call.client.clone();
    let engine = client.engine.clone();
    let structured = std::mem::take(&mut call.body.structured);
    let grammar = structured.grammar()?;
    let session_tools = match &call.id {
        Some(id) => session_tools(engine.session_tools(id.clone()).await?.as_ref()),
        None => None,
    };
    let callable = callable(&app, &call, session_tools)?;
    let grammar = match &callable {
        Some(callable) => callable.grammar(grammar, app.engine.tokenizer())?,
        None => grammar,
    };
    let calls = callable.map(Callable::parser);
    let constraint = app.constraint(grammar, &client).await?;
    let request = request(&app, call, constraint)?;
    let in_messages = |error| Problem::of(error, "messages");
    let prepared = engine.prepare(vec![request]).await.map_err(in_messages)?;
    let kept = record.as_ref().map_or(0, Record::bytes);
    client.memory.shrink(kept + prepared.iter().map(Prepared::bytes).sum::<usize>());
    let answer =
        Answer::<F>::start(app.clone(), &engine, prepared, Vec::new(), logprobs, usage, calls)?;
    let answer = answer.recorded(record);
    if streams {
        return Ok(stream::respond(&app, answer));
    }
    Ok(Json(answer.whole().await?).into_response())
}

/// Counts the tokens of a chat request's prompt.
pub(crate) async fn count(app: &App, call: Call<ChatRequest>) -> Result<usize, Problem> {
    let engine = call.client.engine.clone();
    let request = request(app, call, None)?;
    let prepared = engine.prepare(vec![request]).await;
    let prepared = prepared.map_err(|error| Problem::of(error, "messages"))?;
    Ok(prepared.first().map_or(0, |request| request.tokens().len()))
}

/// The tools of a session as a request has them.
pub(super) fn session_tools(tools: Option<&TemplateJson>) -> Option<Vec<Tool>> {
    serde_json::from_value(serde_json::to_value(tools?).ok()?).ok()
}

/// The tools that the reply may call. In a session they are those of its beginning.
fn callable(
    app: &App,
    call: &Call<ChatRequest>,
    session: Option<Vec<Tool>>,
) -> Result<Option<Callable>, Problem> {
    let Fields { tool_choice, parallel_tool_calls, .. } = &call.body.chat;
    let tools = session.as_deref().or(call.body.template.tools.as_deref());
    let model = app.engine.template().filter(|template| template.takes_tools());
    Callable::read(tools, tool_choice.as_ref(), *parallel_tool_calls, model)
}

/// Makes the engine's request.
fn request(
    app: &App,
    call: Call<ChatRequest>,
    constraint: Option<Constraint>,
) -> Result<Request, Problem> {
    let Call { client, id, body: ChatRequest { common, chat, template, .. }, .. } = call;
    let n = common.n.unwrap_or(1) as usize;
    let messages = messages(chat.messages);
    let hidden = matches!(chat.tool_choice, Some(ToolChoice::Mode(Mode::None)));
    let continued = chat.continue_final_message.unwrap_or(false);
    if continued && (id.is_some() || chat.add_generation_prompt == Some(true)) {
        let message = "not in a session, and not with add_generation_prompt: true";
        return Err(Problem::parameter("continue_final_message", message));
    }
    if !continued && chat.add_generation_prompt == Some(false) {
        let message = "false only with continue_final_message: true";
        return Err(Problem::parameter("add_generation_prompt", message));
    }
    let prompt = match id {
        None => {
            let template =
                if hidden { TemplateFields { tools: None, ..template } } else { template };
            Prompt::Chat { messages, options: template.options(app.engine.template())? }
        }
        Some(_) if n > 1 => return Err(Problem::parameter("n", "a session has one next message")),
        Some(id) => {
            template.check_turn()?;
            Prompt::Session { id, messages }
        }
    };
    for (name, value) in
        [("max_completion_tokens", common.max_completion_tokens), ("max_tokens", common.max_tokens)]
    {
        if value == Some(0) {
            return Err(Problem::parameter(name, "at least one token"));
        }
    }
    let logprobs = match (chat.logprobs.unwrap_or(false), chat.top_logprobs.unwrap_or(0)) {
        (false, 0) => None,
        (false, _) => return Err(Problem::parameter("top_logprobs", "only with logprobs: true")),
        (true, top) => Some(top),
    };
    let default_tokens = app.options.limits.max_tokens;
    let request = common.request(app, &client, default_tokens, logprobs, constraint)?;
    Ok(request(prompt).continue_last(continued))
}

impl TemplateFields {
    /// The options for the template.
    ///
    /// # Errors
    /// 400 if there are tools and the template does not use them.
    pub(super) fn options(self, template: Option<&Template>) -> Result<ChatOptions, Problem> {
        let mut options = ChatOptions::default();
        if let Some(tools) = self.tools.filter(|tools| !tools.is_empty()) {
            if template.is_some_and(|template| !template.takes_tools()) {
                return Err(no_place());
            }
            if tools.len() > 128 {
                let message = format!("{} are more than 128", tools.len());
                return Err(Problem::parameter("tools", message));
            }
            let tools = serde_json::from_value(tools.into_iter().map(Value::Object).collect());
            options.tools = Some(tools.map_err(|error| Problem::parameter("tools", error))?);
        }
        let effort = self.reasoning_effort.as_deref().map(TemplateJson::from);
        options.variables.extend(effort.map(|effort| ("reasoning_effort".to_owned(), effort)));
        options.variables.extend(self.chat_template_kwargs.unwrap_or_default());
        Ok(options)
    }

    /// Refuses what a session takes at its beginning only.
    fn check_turn(&self) -> Result<(), Problem> {
        let at_beginning = |name| {
            let message = "a session takes them at its beginning";
            Err(Problem::parameter(name, message))
        };
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return at_beginning("tools");
        }
        if self.chat_template_kwargs.as_ref().is_some_and(|variables| !variables.is_empty()) {
            return at_beginning("chat_template_kwargs");
        }
        Ok(())
    }
}
