"""One valid result record, to be changed one field at a time."""

from typing import Any

from islr.evaluation.results import Provenance, Result

PROVENANCE: dict[str, Any] = {
    "protocol": "isr/1",
    "manifest": "wlasl100",
    "split": "test",
    "split_fingerprint": "a" * 64,
    "label_space": "original",
    "label_fingerprint": "b" * 64,
    "clips_present": 240,
    "clips_expected": 258,
    "selection_set": "val",
    "views": "1x1",
    "decoder": "pyav",
    "encoder": "mvit_tiny",
    "pretraining": [{"recipe": "maskfeat", "manifest": "synth", "fingerprint": "c" * 64, "clips": "960"}],
    "seed": 0,
    "config_hash": "d" * 64,
    "checkpoint_hash": "e" * 64,
    "commit": "f" * 40,
    "libraries": {"torch": "2.11"},
    "device": "CPU",
    "wall_time_s": 12.5,
}


def result(**changes: Any) -> Result:
    base: dict[str, Any] = {
        "name": "maskfeat",
        "metric": "top1",
        "value": 0.79,
        "ci_low": 0.75,
        "ci_high": 0.83,
        "ci_method": "95% percentile bootstrap over clips, 2000 draws",
        "n": 240,
        "higher_is_better": True,
        "provenance": Provenance(**PROVENANCE),
    }
    return Result(**{**base, **changes})
