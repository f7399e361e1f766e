"""A run of the probing protocol: what it records, how it goes on, what it refuses."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from islr.config import validate
from islr.data.manifest import Clip, Manifest
from islr.errors import Interrupted, UserError
from islr.evaluation.results import Result
from islr.training.run_config import RunConfig
from probe.config import ProbeConfig
from probe.run import run_probe
from probe.solver.linear import LinearProbes
from probe.tables import render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, a lexicon and three files of features; no video is needed."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    shape, place = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    header = "EntryID,LemmaID," + ",".join(f"{name}.2.0" for name in _ASL_LEX)
    lines = [header]
    for i in range(40):
        levels = dict.fromkeys(_ASL_LEX, "NA") | {
            "Handshape": f"h{shape[i]}",
            "MajorLocation": f"l{place[i]}",
        }
        # Signs that only differ in a feature that is not probed keep apart.
        levels["Movement"] = f"m{i}"
        lines.append(f"w{i},w{i}," + ",".join(levels.values()))
    (folder / "lexicon.csv").write_text("\n".join(lines) + "\n")
    clips = [
        Clip(
            f"c{i:02d}-{j}",
            f"{i}-{j}.mp4",
            gloss=f"w{i}",
            label=i,
            signer=str(j),
            split="test" if j == 3 else "train",
        )
        for i in range(40)
        for j in range(4)
    ]
    Manifest("m", tuple(clips), folder, tuple(f"w{i}" for i in range(40))).save(folder / "manifest.csv")
    sign = np.repeat(np.arange(40), 4)
    good = np.eye(3)[shape[sign]] + 0.1 * rng.normal(size=(160, 3))
    ids = np.array([clip.clip_id for clip in clips])
    layers = {"layer.0": rng.normal(size=(160, 3)), "layer.1": np.hstack([good, rng.normal(size=(160, 4))])}
    np.savez(folder / "good.npz", clip_ids=ids, **layers)
    np.savez(folder / "noise.npz", clip_ids=ids[:150], features=rng.normal(size=(150, 6)))
    shuffled = rng.permutation(160)
    np.savez(folder / "mixed.npz", clip_ids=ids[shuffled], **{k: v[shuffled] for k, v in layers.items()})
    return folder


def study_of(folder: Path, out: Path) -> dict[str, Any]:
    return {
        "encoders": [str(folder / "good.npz"), str(folder / "noise.npz")],
        "data": {"manifest": str(folder / "manifest.csv")},
        "lexicon": str(folder / "lexicon.csv"),
        "features": ["Handshape", "MajorLocation"],
        "folds": 3,
        "probes": {
            "inverse_penalties": [0.01, 0.1],
            "min_train_signs": 2,
            "min_test_signs": 1,
            "permutations": 1,
        },
        "controls": ["majority", "label-only", "sign-identity"],
        "draws": 100,
        "run": {"out": str(out)},
    }


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The study of `folder`, with a run folder of its own."""
    return study_of(folder, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """The study, run whole."""
    study = study_of(folder, folder / "run")
    return study, run_probe(validate(ProbeConfig, study, "study"), quiet)


_ASL_LEX = (
    *("Handshape", "SelectedFingers", "Flexion", "FlexionChange", "Spread", "SpreadChange", "ThumbPosition"),
    *("ThumbContact", "SignType", "Movement", "RepeatedMovement", "MajorLocation", "MinorLocation"),
    *("SecondMinorLocation", "Contact", "NonDominantHandshape", "UlnarRotation"),
)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def numbers(results: list[Result]) -> dict[tuple[Any, ...], tuple[float, float | None]]:
    return {(r.name, r.metric, *r.group.values()): (r.value, r.ci_low) for r in results}


def find(results: list[Result], name: str, metric: str = "balanced_accuracy", **group: str) -> Result:
    wanted = {"feature": "Handshape", "split": "unseen_sign", "layer": "chosen", "control": "", **group}
    (found,) = [r for r in results if r.name == name and r.metric == metric and wanted.items() <= r.group.items()]
    return found


def test_run_scores_files_of_features(finished: tuple[dict[str, Any], list[Result]]) -> None:
    study, results = finished
    config = validate(ProbeConfig, study, "study")
    assert find(results, "good").value > 0.98
    assert find(results, "good", layer="0").value < 0.6
    assert find(results, "good", layer="1").value > 0.98
    assert find(results, "good", control="permuted").value < 0.6
    assert find(results, "good", "selectivity").value > 0.4
    assert find(results, "majority", control="majority").value == pytest.approx(1 / 3, abs=0.03)
    assert find(results, "label only", control="label-only").value < 0.6
    assert find(results, "sign identity", control="sign-identity", split="seen_sign").value == 1
    assert find(results, "sign identity", control="sign-identity").value == pytest.approx(1 / 3, abs=0.03)
    assert find(results, "good", "log_loss").higher_is_better is False
    assert find(results, "good", "p_permutation:noise").value < 0.05
    assert find(results, "good").group["sign_groups"] == "40"
    assert find(results, "good").group["classes"] == "3"
    difference = find(results, "good", "difference_to:noise")
    assert difference.ci_low is not None
    assert difference.ci_low > 0
    assert difference.n == 150  # the clips that both have
    assert find(results, "good", "p_holm:noise").value < 0.05
    assert find(results, "noise").provenance.clips_present == 150
    assert find(results, "noise").provenance.clips_expected == 160
    bundles = find(results, "good", feature="mean:bundles").value
    assert bundles == pytest.approx(
        np.mean([find(results, "good", feature=f).value for f in ("Handshape", "MajorLocation")])
    )
    assert {r.provenance.protocol for r in results} == {"probe/1"}
    folder = Path(config.run.out)
    for name in (
        "config.yaml",
        "result.json",
        "details.json",
        "splits/unseen_sign.json",
        "splits/seen_sign.json",
    ):
        assert (folder / name).is_file(), name
    text = render(results)
    assert "unseen_sign" in text
    assert "160 of 160 clips" in text
    assert run_probe(config, quiet) == results


def test_a_probe_short_of_its_optimum_is_marked(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.fitting.LinearProbes", partial(LinearProbes, max_iterations=1))
    results = run_probe(validate(ProbeConfig, study, "study"), quiet)
    assert "NOT CONVERGED" in find(results, "good").ci_method
    assert "NOT CONVERGED" not in find(results, "majority", control="majority").ci_method
    assert "!" in render(results)


def test_row_order_changes_nothing(
    study: dict[str, Any], folder: Path, finished: tuple[dict[str, Any], list[Result]]
) -> None:
    changes = {"encoders": [str(folder / "mixed.npz")], "controls": []}
    mixed = numbers(run_probe(validate(ProbeConfig, study | changes, "study"), quiet))
    good = {key[1:]: value for key, value in numbers(finished[1]).items() if key[0] == "good"}
    assert mixed
    assert {key[1:]: value for key, value in mixed.items()}.items() <= good.items()


def test_an_interrupted_run_continues_to_the_same_numbers(
    study: dict[str, Any], tmp_path: Path, finished: tuple[dict[str, Any], list[Result]]
) -> None:
    config = validate(ProbeConfig, study | {"run": {"out": str(tmp_path / "cut")}}, "study")
    with pytest.raises(Interrupted):
        run_probe(config, lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if done == 1 else None)
    assert not (tmp_path / "cut" / "result.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "predictions").iterdir()}
    assert kept
    assert numbers(run_probe(config, quiet)) == numbers(finished[1])
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())


def test_a_folder_of_another_configuration_is_refused(finished: tuple[dict[str, Any], list[Result]]) -> None:
    study, _ = finished
    with pytest.raises(UserError, match="another configuration"):
        run_probe(validate(ProbeConfig, study | {"draws": 150}, "study"), quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ["nowhere"]}, "no such run folder"),
        ({"encoders": ["{tmp}"]}, "holds no encoder.safetensors"),
        ({"encoders": ["{tmp}/good.npz", "{tmp}/other/good.npz"]}, "two encoders are called 'good'"),
        ({"features": ["Colour"]}, "unknown feature 'Colour'"),
        ({"folds": 30}, "40 sign groups are too few for 30 folds"),
        ({"lexicon": "nowhere.csv"}, "no such lexicon"),
        ({"splits": []}, "name at least one split"),
        ({"probes": {"inverse_penalties": [0.0]}}, "every C must be positive"),
        ({"controls": ["luck"]}, "controls"),
    ],
)
def test_wrong_input_is_one_clear_line(
    study: dict[str, Any], folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    for copy in (tmp_path / "good.npz", tmp_path / "other" / "good.npz"):
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((folder / "good.npz").read_bytes())
    if "encoders" in changes:
        changes = {"encoders": [text.format(tmp=tmp_path) for text in changes["encoders"]]}
    with pytest.raises(UserError, match=message) as caught:
        run_probe(validate(ProbeConfig, study | changes, "study"), quiet)
    assert "\n" not in str(caught.value)


def test_features_of_other_clips_are_refused(study: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "strange.npz", clip_ids=np.array(["x", "y"]), features=np.zeros((2, 3)))
    with pytest.raises(UserError, match="none of its clip ids"):
        run_probe(validate(ProbeConfig, study | {"encoders": [str(tmp_path / "strange.npz")]}, "study"), quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"out": "o", "precision": "bf16"}}, "run: precision is an option of training"),
        ({"run": {"out": "o", "log_every": 5}}, "run: log_every is an option of training"),
        ({"data": {"manifest": ["a.csv", "b.csv"], "balance": 0.5}}, r"data\.balance is an option of training"),
        ({"splits": "unseen_sign", "shared_with_test": "drop"}, "shared_with_test has no effect without seen_sign"),
        ({"analyses": {"run": "knn", "shots": [2]}}, "shots has no effect without few_shot"),
    ],
)
def test_an_option_that_cannot_act_is_refused(study: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(ProbeConfig, study | changes, "study")


def test_defaults_of_training_written_by_older_runs_are_accepted(study: dict[str, Any]) -> None:
    run = RunConfig(out="o").model_dump()
    assert validate(ProbeConfig, study | {"run": run}, "study").run.out == "o"
