"""The result record: a number that carries its interval, its n and everything needed to produce it again.

A number is never a printed line. It is a `Result`, which holds its `Provenance`: the protocol, the hashes
of the split, the labels, the configuration, the weights and the code, and how many of the expected clips
were there. One file holds one provenance and the numbers measured under it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from islr.config import Config
from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import Plain, read_json

FILE_VERSION = 1
# Rounding in a JSON round trip or in a mean may move a bound past the value by this much.
_ROUNDING = 1e-9
# Arguments that make another network of an architecture -> their usual value, which labels leave out.
LABELLED_ARGUMENTS = {"input": "rgb", "widen_in": "mlp"}


class Provenance(Config):
    """Where numbers come from. Hashes are full sha256 hex; a field that does not apply is an empty string.

    Attributes:
        protocol: Name and version of the measuring rules, "isr/1" or "probe/1".
        manifest: Name of the corpus.
        split: Split that was scored.
        split_fingerprint: `Manifest.fingerprint(split)`, over all clips of the split, present or not.
        label_space: "original", "revised", ... or the phonology table for probes.
        label_fingerprint: sha256 of the ordered class names (or of the targets table).
        clips_present: Clips scored.
        clips_expected: Clips the split lists.
        selection_set: Data on which checkpoint and hyper-parameters were chosen; never the scored split.
        views: Temporal x spatial views averaged, such as "1x1".
        decoder: Decoding backend and its version; for packed clips also size, codec and quality of the pack.
        encoder: Architecture name, and the input of its front end where that is not `rgb`.
        pretraining: Stages in order, each with recipe, manifest, fingerprint, clips; empty for random
            initialisation.
        seed: Seed of the run.
        config_hash: `config_hash` of the resolved configuration.
        checkpoint_hash: sha256 of the scored weights file.
        commit: Version-control commit of the code, with "+changes" when the tree was not clean; empty if
            unknown.
        libraries: Library name -> version.
        device: Kind of device, such as "CPU x86_64, 1 thread(s)".
        wall_time_s: Wall time of the run that made the numbers, in seconds.
        epoch_chosen: Epoch whose weights were scored; None where no epoch was chosen.
        epochs_trained: Epoch after which training ended, by its schedule or by `patience`; None likewise.
        trials: Trainings that were compared on the selection set, one of them chosen: the values of the optimiser, the
            score, and whether it was chosen; empty for one training without choice.
        cluster: Unit that intervals and tests draw: "signer", or empty for single clips.
        poses: Program that made the corpus's poses -> clips; of interest to pose encoders, and empty without poses.
        unreadable: Use ("train", "select", "test") -> clips that were listed as present and could not be read, each
            with its reason; a use without any is left out.
        parents: Models that were fused, each with its row name, encoder, views, weight and hashes; empty for one
            model.
    """

    protocol: str
    manifest: str
    split: str
    split_fingerprint: str
    label_space: str
    label_fingerprint: str
    clips_present: int = pydantic.Field(ge=0)
    clips_expected: int = pydantic.Field(ge=0)
    selection_set: str
    views: str
    decoder: str
    encoder: str
    pretraining: list[dict[str, str]]
    seed: int
    config_hash: str
    checkpoint_hash: str
    commit: str
    libraries: dict[str, str]
    device: str
    wall_time_s: float = pydantic.Field(ge=0)
    epoch_chosen: float | None = None
    epochs_trained: float | None = None
    trials: list[dict[str, str]] = pydantic.Field(default_factory=list)
    cluster: Literal["", "signer"] = ""
    poses: dict[str, int] = pydantic.Field(default_factory=dict)
    unreadable: dict[str, list[str]] = pydantic.Field(default_factory=dict)
    parents: list[dict[str, str]] = pydantic.Field(default_factory=list)

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "Provenance":
        if self.clips_present > self.clips_expected:
            raise ValueError(f"clips_present {self.clips_present} is more than clips_expected {self.clips_expected}")
        if self.selection_set and self.selection_set == self.split == "test":
            raise ValueError("selection_set is the scored test split; select on val or on a held-out part of train")
        return self

    @property
    def trained(self) -> int:
        """Return how many trainings its weights were chosen from."""
        return len(self.trials) or 1

    @property
    def complete(self) -> bool:
        """Return whether every expected clip was scored."""
        return self.clips_present == self.clips_expected


class Result(Config):
    """One number.

    Attributes:
        name: The row it belongs to, such as "maskfeat" or "random init".
        metric: Name of the measure: "top1", "top5", "top1_per_class", "balanced_accuracy", ...
        value: The number; accuracies are fractions (0.79), never percent.
        ci_low: Lower bound of the 95 % interval, or None where none is defined.
        ci_high: Upper bound; given exactly when `ci_low` is.
        ci_method: Description of the interval; empty without interval.
        n: Number of items behind the value (clips, or signs), at least 1.
        higher_is_better: Direction of the measure.
        group: What subset or condition the number is for, such as {"signer": "s03"} or
            {"feature": "MajorLocation", "split": "unseen_sign", "layer": "chosen", "control": ""}.
        provenance: Where the number comes from.

    Raises:
        ValueError: A value is not finite, or the interval is half given, reversed, or does not hold the
            value.
    """

    name: str = pydantic.Field(min_length=1)
    metric: str = pydantic.Field(min_length=1)
    value: float
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    n: int = pydantic.Field(gt=0)
    higher_is_better: bool
    group: dict[str, str] = pydantic.Field(default_factory=dict)
    provenance: Provenance

    @pydantic.model_validator(mode="after")
    def _interval_holds_value(self) -> "Result":
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError("ci_low and ci_high are given together or not at all")
        if self.ci_low is not None and self.ci_high is not None:
            if not self.ci_low - _ROUNDING <= self.value <= self.ci_high + _ROUNDING:
                raise ValueError(f"value {self.value} is outside its interval [{self.ci_low}, {self.ci_high}]")
            if not self.ci_method:
                raise ValueError("an interval needs ci_method, the description of how it was made")
        return self


def save_results(path: str | Path, results: Sequence[Result]) -> None:
    """Write results that share one provenance to a JSON file, atomically.

    Raises:
        ValueError: There is nothing to write, or the results have different provenances.
    """
    if not results:
        raise ValueError("no results to save")
    provenance = results[0].provenance
    if any(result.provenance != provenance for result in results):
        raise ValueError("one results file holds one provenance; write the others to their own files")
    content = {
        "version": FILE_VERSION,
        "provenance": provenance.model_dump(mode="json"),
        "results": [result.model_dump(mode="json", exclude={"provenance"}) for result in results],
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def encoder_label(facts: Mapping[str, str]) -> str:
    """Return what tables call an encoder, from its file's metadata: the architecture, and its form where unusual."""
    taken = json.loads(facts.get("arguments", "{}"))
    unusual = {name: taken[name] for name, usual in LABELLED_ARGUMENTS.items() if taken.get(name, usual) != usual}
    return ", ".join([facts["architecture"], *(v if k == "input" else f"{k}={v}" for k, v in unusual.items())])


def as_table(results: Sequence[Result]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows, one row a result; every key of a group is a column."""
    keys = list(dict.fromkeys(key for result in results for key in result.group))
    rows: list[list[Any]] = [
        [r.name, r.metric, *(r.group.get(key, "") for key in keys), r.value, r.ci_low, r.ci_high, r.n] for r in results
    ]
    return ["name", "metric", *keys, "value", "low", "high", "n"], rows


def load_results(path: str | Path) -> list[Result]:
    """Read a results file.

    Raises:
        UserError: The file is missing, is not a results file, is of another version, or holds an impossible
            value.
    """
    try:
        content = read_json(Plain, Path(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(content, dict) or not {"version", "provenance", "results"} <= content.keys():
        raise UserError(f"{path}: not a results file (it needs version, provenance and results)")
    if content["version"] != FILE_VERSION:
        raise UserError(f"{path}: results file version {content['version']}; this release reads {FILE_VERSION}")
    if not content["results"]:
        raise UserError(f"{path}: holds no result; make it again")
    try:
        provenance = Provenance.model_validate(content["provenance"])
        return [Result.model_validate({**row, "provenance": provenance}) for row in content["results"]]
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise UserError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
    except TypeError as error:
        raise UserError(f"{path}: its records are no list of mappings ({error})") from error
