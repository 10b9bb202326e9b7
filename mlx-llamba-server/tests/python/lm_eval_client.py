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
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
found = {}
for bos, batch, concurrent in ((False, 1, 1), (False, 4, 3), (True, 4, 1)):
    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": model,
            "base_url": url + "/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": tokenizer,
            "num_concurrent": concurrent,
            "max_retries": 1,
            "add_bos_token": bos,
        },
        tasks=["stories"],
        task_manager=tasks,
        batch_size=batch,
        log_samples=True,
        bootstrap_iters=1,
    )
    # A sample a metric, all with the same answers.
    samples = {sample["doc_id"]: sample for sample in result["samples"]["stories"]}
    answers = [samples[i]["filtered_resps"] for i in sorted(samples)]
    scores = result["results"]["stories"]
    assert scores["acc,none"] >= 0.6, scores
    found[bos, batch] = {
        "likelihoods": [[float(likelihood) for likelihood, _ in answer] for answer in answers],
        "values": [scores[metric + ",none"] for metric in METRICS],
        "errors": [scores[metric + "_stderr,none"] for metric in METRICS],
    }
assert found[False, 1] == found[False, 4], "batches change the result"
print(json.dumps([found[False, 4], found[True, 4]]))
