"""The result record refuses what would make a number meaningless, and survives a file unchanged."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from support.records import PROVENANCE, result

from islr.errors import UserError
from islr.evaluation.results import Provenance, load_results, save_results


@pytest.mark.parametrize(
    "changes",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": 0.9},
        {"ci_low": 0.8},
        {"ci_low": None},
        {"ci_method": ""},
        {"n": 0},
        {"name": ""},
        {"valeu": 0.1},
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any]) -> None:
    assert result().value == 0.79
    with pytest.raises(pydantic.ValidationError):
        result(**changes)


def test_a_value_without_interval_is_allowed() -> None:
    assert result(ci_low=None, ci_high=None, ci_method="").ci_low is None


@pytest.mark.parametrize("changes", [{"clips_present": 300}, {"selection_set": "test"}, {"wall_time_s": -1.0}])
def test_impossible_provenance_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Provenance(**{**PROVENANCE, **changes})


def test_records_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        result().value = 1.0  # type: ignore[misc]


def test_file_round_trip_is_exact(tmp_path: Path) -> None:
    records = [
        result(value=0.1 + 0.7, ci_low=1 / 3, group={"signer": "s é"}),
        result(metric="top5", value=0.82),
    ]
    save_results(tmp_path / "deep" / "result.json", records)
    assert load_results(tmp_path / "deep" / "result.json") == records
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]
    content = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert set(content) == {"version", "provenance", "results"}
    assert "provenance" not in content["results"][0]


def test_a_file_of_before_there_were_clusters_and_parents_is_read(tmp_path: Path) -> None:
    save_results(tmp_path / "result.json", [result()])
    content = json.loads((tmp_path / "result.json").read_text())
    for key in ("cluster", "parents"):
        del content["provenance"][key]
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert load_results(tmp_path / "result.json") == [result()]


def test_a_file_holds_one_provenance(tmp_path: Path) -> None:
    other = Provenance(**{**PROVENANCE, "seed": 1})
    with pytest.raises(ValueError, match="one provenance"):
        save_results(tmp_path / "result.json", [result(), result(provenance=other)])
    with pytest.raises(ValueError, match="no results"):
        save_results(tmp_path / "result.json", [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "not valid json"),
        ("[]", "not a results file"),
        ('{"version": 9, "provenance": {}, "results": []}', "version 9"),
        ('{"version": 1, "provenance": {}, "results": []}', "holds no result"),
        ('{"version": 1, "provenance": {}, "results": [{}]}', "protocol"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_impossible_value_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    save_results(path, [result()])
    path.write_text(path.read_text().replace('"value": 0.79', '"value": 0.99'))
    with pytest.raises(UserError, match="outside its interval"):
        load_results(path)
