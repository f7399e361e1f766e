"""The smallest training there is, for tests of the engine: a two-layer encoder on a few rendered clips."""

from pathlib import Path
from typing import Any

import yaml

PRETRAIN: dict[str, Any] = {
    "task": "pretrain",
    "name": "tiny",
    "recipe": {"name": "maskfeat", "mask_pixels": 16},
    "encoder": {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}},
    "data": {"cache": "memory", "short_side": 40},
    "optim": {"lr": 1e-3, "epochs": 2, "warmup_epochs": 1, "batch_size": 4, "clip_grad": 1.0},
    "run": {"wandb": "disabled", "log_every": 1, "checkpoint_every": 3},
}
FINETUNE: dict[str, Any] = {
    "task": "finetune",
    "name": "tiny",
    "encoder": {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}},
    "data": {"cache": "memory", "short_side": 40},
    "optim": {"lr": 1e-3, "epochs": 2, "warmup_epochs": 1, "batch_size": 6, "layer_decay": 0.8, "ema": 0.9},
    "run": {"wandb": "disabled", "log_every": 1},
}


def write_config(base: dict[str, Any], path: Path, manifest: Path, out: Path, **changes: Any) -> Path:
    """Write `base` for a manifest and a run folder, with groups of keys changed."""
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    tree["data"]["manifest"] = str(manifest)
    tree["run"]["out"] = str(out)
    for group, values in changes.items():
        tree[group] = tree.get(group, {}) | values if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path
