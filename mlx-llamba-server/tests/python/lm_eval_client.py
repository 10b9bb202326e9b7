"""EleutherAI's lm-eval against a server: arguments are its address, its model, the directory of
the tokenizer, that of the task and one for scratch files."""

import json
import os
import shutil
import sys

url, model, tokenizer, task, scratch = sys.argv[1:]
for name in ("stories.yaml", "stories.jsonl"):
    shutil.copy(os.path.join(task, name), scratch)
os.chdir(scratch)

import lm_eval
from lm_eval.tasks import TaskManager

tasks = TaskManager(include_path=scratch, include_defaults=False)
found = {}
for batch, concurrent in ((1, 1), (4, 3)):
    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": model,
            "base_url": url + "/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": tokenizer,
            "num_concurrent": concurrent,
            "max_retries": 1,
        },
        tasks=["stories"],
        task_manager=tasks,
        batch_size=batch,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(result["samples"]["stories"], key=lambda sample: sample["doc_id"])
    found[batch] = [sample["filtered_resps"] for sample in samples]
    scores = result["results"]["stories"]
    print(json.dumps(found[batch]))
    assert scores["acc,none"] >= 0.8, scores
assert found[1] == found[4], "batches change the result"
print("ok")
