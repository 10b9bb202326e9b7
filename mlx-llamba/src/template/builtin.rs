//! Templates for tokenizers without one.

pub(super) const NAMES: [&str; 3] = ["chatml", "llama-3", "plain"];

/// A block per message, which many models since 2023 were trained with. Tools are called as Hermes
/// does.
const CHATML: &str = "\
{%- if tools %}
{%- set first = messages[0] if messages and messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' }}
{%- if first %}{{- first.content + '\\n\\n' }}{% endif %}
{{- 'These functions can be called, each described by JSON on a line of its own:\\n<tools>\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{% endfor %}
{{- '</tools>\\nTo call one, write its name and arguments as JSON between tags, like this:\\n' }}
{{- '<tool_call>\\n{\"name\": NAME, \"arguments\": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '\\n' if message.content or not loop.first }}
{{- '<tool_call>\\n{\"name\": ' + function.name | tojson }}
{{- ', \"arguments\": ' + function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// Llama 3's headers, without the later additions for dates. Tools are called by JSON alone, as Llama
/// 3.1 does.
const LLAMA_3: &str = "\
{{- bos_token }}
{%- if tools %}
{%- set first = messages[0] if messages and messages[0].role == 'system' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if first %}{{- first.content | trim + '\\n\\n' }}{% endif %}
{{- 'These functions can be called, each described by JSON:\\n\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n\\n' }}{% endfor %}
{{- 'To call one, answer with nothing but its name and arguments as JSON, like this: ' }}
{{- '{\"name\": NAME, \"parameters\": OBJECT}<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message.content | trim }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '{\"name\": ' + function.name | tojson }}
{{- ', \"parameters\": ' + function.arguments | tojson + '}' }}
{%- endfor %}
{{- '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}";

/// The texts of all messages in a row.
const PLAIN: &str = "\
{{- bos_token }}
{%- for message in messages %}
{{- message.content }}
{%- if message.role != 'user' %}{{ '\\n' }}{% endif %}
{%- endfor %}";

pub(super) fn source(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        "llama-3" => Some(LLAMA_3),
        "plain" => Some(PLAIN),
        _ => None,
    }
}
