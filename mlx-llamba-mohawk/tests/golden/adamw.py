"""Writes adamw.json: steps of PyTorch's AdamW with clipped gradients, in float64."""

import json
import pathlib

import torch

torch.manual_seed(5)
shapes = {"matrix": (3, 5), "norm": (4,)}
parameters = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
start = {name: p.flatten().tolist() for name, p in parameters.items()}
leaves = {name: torch.nn.Parameter(p.clone()) for name, p in parameters.items()}
optimizer = torch.optim.AdamW(
    [
        {"params": [leaves["matrix"]], "weight_decay": 0.1},
        {"params": [leaves["norm"]], "weight_decay": 0.0},
    ],
    betas=(0.9, 0.95),
    eps=1e-8,
)
steps = []
for i in range(12):
    lr = 0.02 * (i + 1) / 12
    gradients = {name: (2.0 if i % 3 else 0.1) * torch.randn(shape, dtype=torch.float64)
                 for name, shape in shapes.items()}
    for group in optimizer.param_groups:
        group["lr"] = lr
    for name, leaf in leaves.items():
        leaf.grad = gradients[name].clone()
    norm = torch.nn.utils.clip_grad_norm_(leaves.values(), 1.5)
    optimizer.step()
    steps.append({
        "lr": lr,
        "norm": float(norm),
        "gradients": {name: g.flatten().tolist() for name, g in gradients.items()},
        "parameters": {name: p.detach().flatten().tolist() for name, p in leaves.items()},
    })
golden = {"clip": 1.5, "shapes": shapes, "start": start, "steps": steps}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden) + "\n")
