"""The smallest run of each recipe, as the recipe itself names it."""

from pathlib import Path
from typing import Any

from islr.config import load_config
from pretrain import RECIPES
from pretrain.run import PretrainConfig
from support.tiny_runs import PRETRAIN, write_config


def smallest_config(name: str, manifest: Path, out: Path, **changes: Any) -> PretrainConfig:
    """Return the configuration of a recipe's smallest run; files are written beside the run folder."""
    groups = RECIPES[name].smallest(out.parent)
    base = {key: value for key, value in PRETRAIN.items() if key not in groups}
    path = write_config(base, out.with_suffix(".yaml"), manifest, out, **groups | changes)
    return load_config(PretrainConfig, path)
