//! Tools, and the choice among them.

use mlx_llamba::constraint::Grammar;
use mlx_llamba::tool_calls::{CallParser, Tool, ToolFormat};
use mlx_llamba::{Template, Tokenizer};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::problem::Problem;

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    None,
    Auto,
    /// Call at least one.
    #[serde(alias = "any")]
    Required,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Function,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(crate) struct Function {
    pub(crate) name: String,
}

/// The choice among the tools.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected none, auto, required or a function")]
pub(crate) enum ToolChoice {
    Mode(Mode),
    Function {
        #[serde(rename = "type")]
        _kind: Kind,
        function: Function,
    },
}

impl ToolChoice {
    pub(crate) fn function(name: String) -> Self {
        Self::Function { _kind: Kind::Function, function: Function { name } }
    }
}

/// A tool of a function.
pub(crate) fn function_tool(function: Value) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), "function".into()), ("function".to_owned(), function)])
}

/// A call of a function.
pub(crate) fn function_call(id: String, name: String, arguments: Value) -> Map<String, Value> {
    let mut call = Map::from_iter([("id".to_owned(), id.into())]);
    call.extend(function_tool(json!({ "name": name, "arguments": arguments })));
    call
}

/// The refusal of tools that the model could not see.
pub(crate) fn no_place() -> Problem {
    let message = "this model's chat template has no place for them; `serve --chat-template chatml`, \
                   or llama-3, has one";
    Problem::parameter("tools", message).code("unsupported_parameter")
}

/// The tools that a reply may call.
#[derive(Debug)]
pub(crate) struct Callable {
    format: ToolFormat,
    tools: Vec<Tool>,
    required: bool,
    /// More than one call in a reply.
    parallel: bool,
}

impl Callable {
    /// Reads tools and the choice among them; `None` if none may be called.
    ///
    /// # Errors
    /// 400 for a tool without a name, and for a choice of a tool that is not there.
    pub(crate) fn read(
        tools: Option<&[Map<String, Value>]>,
        choice: Option<&ToolChoice>,
        parallel: Option<bool>,
        template: Option<&Template>,
    ) -> Result<Option<Self>, Problem> {
        let bad = |message: String| Problem::parameter("tool_choice", message);
        let given = tools.unwrap_or_default();
        let (chosen, required) = match choice {
            Some(ToolChoice::Mode(Mode::None)) => return Ok(None),
            None | Some(ToolChoice::Mode(Mode::Auto)) => (None, false),
            Some(ToolChoice::Mode(Mode::Required)) => (None, true),
            Some(ToolChoice::Function { function, .. }) => (Some(&function.name), true),
        };
        let template = match template {
            Some(template) if !given.is_empty() => template,
            None if !given.is_empty() && required => return Err(no_place()),
            _ if required => {
                let message = "not supported by this server where there are no tools".to_owned();
                return Err(bad(message).code("unsupported_parameter"));
            }
            _ => return Ok(None),
        };
        let read = |(i, tool)| {
            let missing = || Problem::parameter("tools", format!("[{i}]: a function needs a name"));
            Tool::read(tool).ok_or_else(missing)
        };
        let mut tools: Vec<Tool> = given.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        if let Some(name) = chosen {
            tools.retain(|tool| tool.name == *name);
            if tools.is_empty() {
                let shown: String = name.chars().take(80).collect();
                return Err(bad(format!("no tool is called {shown:?}")));
            }
        }
        let parallel = parallel.unwrap_or(true) && chosen.is_none();
        Ok(Some(Self { format: ToolFormat::of(template), tools, required, parallel }))
    }

    /// The grammar of the reply, and the parameter that asks for it, where the text beside calls has
    /// the format `text`.
    ///
    /// # Errors
    /// 400 if a tool cannot be called in the model's format.
    pub(crate) fn grammar(
        &self,
        text: Option<(Grammar, &'static str)>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<(Grammar, &'static str)>, Problem> {
        let other = match &text {
            _ if self.required => None,
            None => return Ok(None),
            Some((Grammar::JsonSchema(schema), _)) => Some(schema.clone()),
            Some((Grammar::JsonObject, _)) => Some(json!({"type": "object"})),
            // A text of another grammar is not told from a call.
            Some(_) => return Ok(text),
        };
        let grammar = self.format.grammar(&self.tools, tokenizer, self.parallel, other.as_ref());
        Ok(Some((grammar.map_err(|error| Problem::parameter("tools", error))?, "tools")))
    }

    /// A parser of one reply.
    pub(crate) fn parser(self) -> Calls {
        let Self { format, tools, parallel, .. } = self;
        Calls { format, parser: CallParser::new(format, tools), parallel }
    }
}

/// Finds the calls in replies.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) format: ToolFormat,
    pub(crate) parser: CallParser,
    pub(crate) parallel: bool,
}
