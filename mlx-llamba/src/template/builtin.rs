//! Templates for tokenizers without one.

pub(super) const NAMES: [&str; 3] = ["chatml", "llama-3", "plain"];

/// A block per message, which many models since 2023 were trained with.
const CHATML: &str = "\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// Llama 3's headers, without the later additions for tools and dates.
const LLAMA_3: &str = "\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content | trim + '<|eot_id|>' }}
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
