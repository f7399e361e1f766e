"""What a report takes from the files of a run or corpus folder; a broken file costs its folder, not the report."""

from typing import Annotated, Any, Literal

import pydantic

from islr.untrusted.json_files import Count, Number

Name = Annotated[str, pydantic.Field(max_length=500)]


class _Loose(pydantic.BaseModel, extra="allow"):
    """Files have more than is used here."""


class RunConfigFacts(_Loose):
    """config.yaml of a run."""

    task: Literal["pretrain", "finetune", "evaluate", "probe"]
    name: Name | int | float | None = None
    tags: dict[str, str] | None = None
    encoder: dict[str, Any] | str | None = None
    recipe: dict[str, Any] | str | None = None
    data: dict[str, Any] | None = None


class _Trivial(pydantic.BaseModel, extra="forbid"):
    predicts: str
    values: list[str] = ["loss"]
    rises: bool = False


class RecipeFacts(_Loose):
    """recipe.json."""

    predictors: dict[str, _Trivial] = {}


class ProbeDetails(_Loose):
    """details.json of a probing run."""

    coverage: dict[str, Any] = {}
    splits: dict[str, Any] | list[Any] = {}


class _Split(_Loose):
    expected: Count | None = None
    present: Count | None = None
    missing: Count | None = None
    corrupt: Count | None = None
    classes_present: Count | None = None
    classes: Count | None = None
    signers: Count | None = None
    fingerprint: str = ""


class _Overlap(_Loose):
    signers: Count = 0


class _Signers(_Loose):
    overlap: dict[str, _Overlap] | None = None


class _Groups(_Loose):
    groups: Count = 0
    groups_across_splits: Count = 0
    groups_across_labels: Count = 0
    test_clips_in_train_with_the_same_label: Count = 0
    most_frequent_label_sets: dict[str, Any] | None = None


class _Ceiling(_Loose):
    top1: Number
    top1_other_ties: Number
    top5: Number
    n: Count
    of: Count


class _Forms(_Loose):
    label_ceiling: dict[str, _Ceiling] | None = None
    train_forms_with_several_labels: Count = 0


class _Poses(_Loose):
    clips: Count | None = None
    with_pose: Count | None = None
    share_of_frames_with_hand: dict[str, Number] | None = None


class AuditFacts(_Loose):
    """audit.json of a corpus."""

    name: str | None = None
    corpus: str | None = None
    clips: Count | None = None
    present: Count | None = None
    splits: dict[str, _Split] | None = None
    corrupt_by_kind: dict[str, Count] | None = None
    duration_s: dict[str, dict[str, Any] | None] | None = None
    signers: _Signers | None = None
    same_content: _Groups | None = None
    same_origin: _Groups | None = None
    forms: _Forms | None = None
    poses: _Poses | None = None
    fps: dict[str, Count] | None = None
    resolution: dict[str, Count] | None = None

    @pydantic.field_validator("duration_s")
    @classmethod
    def _of_numbers(cls, value: Any) -> Any:
        for split in (value or {}).values():
            for key in ("p50", "total_hours"):
                if not isinstance((split or {}).get(key, 0.0), int | float | None):
                    raise ValueError(f"{key} is not a number")
        return value
