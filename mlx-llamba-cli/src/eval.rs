//! `mlx-llamba eval`

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::evaluate::{
    Accuracies, Answer, Estimate, Fields, MultipleChoice, MultipleChoiceOptions, Question, Score,
};
use mlx_llamba::units::count;
use mlx_llamba::{LanguageModel, Tokenizer};
use serde::Serialize;

use crate::model::{ModelArgs, with_model};
use crate::output::show;
use crate::progress::{Progress, Unit};
use crate::texts::estimate;

/// Ask a model multiple-choice questions
#[derive(clap::Args)]
#[command(after_help = "\
Every line of the data is a question:

  {\"context\": \"The sky is\", \"choices\": [\"green.\", \"blue.\"], \"answer\": 1}

The answer is the number of the right choice, counted from 0, or its text. A model answers with the \
choice that is most likely after the context (acc), most likely per character (acc_norm), per byte \
(acc_bytes), or compared with the choice without the context (acc_mutual_info). The results equal \
those of lm-evaluation-harness (local-completions, output_type multiple_choice) on the same \
questions; --bos is its add_bos_token.

Examples:
  mlx-llamba eval --model ./llamba --data questions.jsonl
  mlx-llamba eval --data stories.jsonl --context beginning --choices endings \\
      --answer right
  mlx-llamba eval --data questions.jsonl --mutual-information --json --each")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Questions, as lines of JSON
    #[arg(long, value_name = "FILE", hide_env = true)]
    data: PathBuf,
    /// Field with the text before the choices
    #[arg(long, value_name = "NAME", default_value = "context")]
    context: String,
    /// Field with the choices
    #[arg(long, value_name = "NAME", default_value = "choices")]
    choices: String,
    /// Field with the answer
    #[arg(long, value_name = "NAME", default_value = "answer")]
    answer: String,
    /// Text between context and choice [default: a space]
    #[arg(long, value_name = "TEXT", default_value = " ", hide_default_value = true)]
    delimiter: String,
    /// Begin every context with the tokenizer's begin-of-text token
    #[arg(long)]
    bos: bool,
    /// Also score choices by how much the context adds to their likelihood
    #[arg(long)]
    mutual_information: bool,
    /// Maximum number of questions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// First print a line for every question (with --json)
    #[arg(long, requires = "json")]
    each: bool,
}

#[derive(Serialize)]
struct Each<'a> {
    question: usize,
    answer: usize,
    #[serde(flatten)]
    given: &'a Answer,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        // Wrong questions are reported before the model is loaded.
        let questions = self.questions(&self.data)?;
        let loaded = self.model.load_any(true)?;
        let tokenizer = loaded.require_tokenizer()?;
        with_model!(&loaded, |model| self.ask(model, tokenizer, &questions))
    }

    /// Returns true if each question is printed. A default may set --each without --json.
    fn prints_each(&self) -> bool {
        self.each && self.json
    }

    fn questions(&self, path: &Path) -> Result<Vec<Question>> {
        let name = path.display();
        let cannot = || format!("cannot read {name}");
        let file = mlx_llamba::files::open_file(path).with_context(cannot)?;
        let fields = Fields {
            context: self.context.clone(),
            choices: self.choices.clone(),
            answer: self.answer.clone(),
        };
        let mut questions = Vec::new();
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            if self.limit.is_some_and(|limit| questions.len() >= limit) {
                break;
            }
            let line = line.with_context(cannot)?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match Question::parse(&line, &fields) {
                Ok(question) => questions.push(question),
                Err(reason) => bail!("{name}, line {}: {reason}", number + 1),
            }
        }
        if questions.is_empty() {
            bail!("{name} has no questions");
        }
        Ok(questions)
    }

    fn ask(
        &self,
        model: &impl LanguageModel,
        tokenizer: &Tokenizer,
        questions: &[Question],
    ) -> Result<()> {
        let asking = MultipleChoiceOptions::default()
            .delimiter(self.delimiter.clone())
            .bos(self.bos)
            .mutual_information(self.mutual_information);
        let quiz = MultipleChoice::new(model, tokenizer, asking)?;
        let progress = Progress::new("asking", Unit::Questions);
        let mut score = Score::default();
        for (number, question) in questions.iter().enumerate() {
            let given = quiz.answer(question)?;
            score.add(question, &given);
            if self.prints_each() {
                let each = Each { question: number, answer: question.answer, given: &given };
                show(&(serde_json::to_string(&each)? + "\n"))?;
            }
            progress.at(number + 1, questions.len());
        }
        self.print(&score.accuracies())
    }

    fn print(&self, found: &Accuracies) -> Result<()> {
        if self.json {
            let mut all = serde_json::to_value(found)?;
            all["model"] = self.model.name().into();
            all["data"] = self.data.display().to_string().into();
            let text = if self.prints_each() { all.to_string() } else { format!("{all:#}") };
            return show(&(text + "\n"));
        }
        let row = |name: &str, share: &Estimate| show(&format!("{name}{}\n", estimate(share)));
        row("acc              ", &found.acc)?;
        row("acc_norm         ", &found.acc_norm)?;
        row("acc_bytes        ", &found.acc_bytes)?;
        if let Some(share) = &found.acc_mutual_info {
            row("acc_mutual_info  ", share)?;
        }
        let cut = match found.cut {
            0 => String::new(),
            cut => format!("; the contexts of {cut} were truncated at their beginning"),
        };
        show(&format!("{}{cut}\n", count(found.questions, "question")))
    }
}
