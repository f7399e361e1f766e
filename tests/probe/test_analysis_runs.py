"""Findings, token features and settings of analyses, and whole runs with them."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.probe_signs import CLASSES, FIT, SIGNERS, SIGNS, corpus, planted
from torch import Tensor, nn

from islr.config import validate
from islr.data.manifest import Clip, Manifest
from islr.data.phonology import FEATURES
from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.evaluation.results import Result
from islr.reporting import build_report
from probe.analyses import ANALYSES
from probe.analyses.context import by_group
from probe.config import ProbeConfig
from probe.features.tokens import cached_tokens, encode_tokens
from probe.findings import Finding, differences, load, mean_over_seeds, save
from probe.run import run_probe
from probe.tables import render


def test_findings_average_compare_and_survive_a_file(tmp_path: Path) -> None:
    def one(values: list[float], metric: str = "auc") -> Finding:
        return Finding("rsa", metric, "f", np.array(values), 9, 3)

    (mean,) = mean_over_seeds([[one([1, 2]), one([5], "p")], [one([3, 6])]])
    assert mean.values.tolist() == [2, 4]
    (gap,) = differences([one([3, 5]), one([1], "p")], [one([1, 2]), one([1], "p")])
    assert (gap.metric, gap.values.tolist()) == ("auc_difference", [2, 3])
    save(tmp_path / "x.npz", "key", [one([1, 2]), one([5], "p")])
    kept = load(tmp_path / "x.npz", "key")
    assert kept is not None
    assert [(f.key, f.values.tolist(), f.clips) for f in kept] == [
        (one([1]).key, [1, 2], 9),
        (one([1], "p").key, [5], 9),
    ]
    assert load(tmp_path / "x.npz", "other") is None
    assert by_group(np.array([1.0, 3, 5]), np.array([0, 0, 2]), 3)[[0, 2]].tolist() == [2, 5]


class Blocks(nn.Module):
    """Two blocks of three tokens whose values name the block."""

    layer_dims = (4, 6)
    input_spec = InputSpec(frames=2, size=4, mean=(0.0,) * 3, std=(1.0,) * 3, modality="video")

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        base = clip.float().mean((1, 2, 3, 4))[:, None, None]
        return [base + torch.arange(3.0)[:, None] * torch.arange(1.0, d + 1) for d in self.layer_dims]


def test_tokens_of_one_block_are_kept_and_cached(tmp_path: Path) -> None:
    def batches() -> list[dict[str, Any]]:
        clip = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
        return [{"clip": clip, "index": torch.tensor([1, 0]), "failed": [(2, "gone")]}]

    make = partial(encode_tokens, Blocks(), batches(), ["a", "b", "c"], max_gigabytes=1)
    tokens = cached_tokens(tmp_path, {"x": 1}, partial(make, block=None))
    assert (tokens.clip_ids, tokens.block, tokens.values.shape) == (("b", "a"), 1, (2, 3, 6))
    assert tokens.values.dtype == np.float16
    np.testing.assert_allclose(tokens.values.astype(float).std(2)[:, 1:], 1, atol=1e-2)  # layer norm
    again = cached_tokens(tmp_path, {"x": 1}, lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(again.values, tokens.values)
    aligned = tokens.aligned(np.array(["a", "c"]))
    np.testing.assert_array_equal(aligned.values[0], tokens.values[1])
    assert (aligned.values[1] == 0).all()
    with pytest.raises(UserError, match=r"blocks are 0\.\.1"):
        make(block=2)
    with pytest.raises(UserError, match=r"more than analyses\.attentive\.max_gigabytes"):
        encode_tokens(Blocks(), batches(), ["a", "b", "c"], block=0, max_gigabytes=1e-9)


@pytest.mark.parametrize(
    ("analyses", "message"),
    [
        (["mdl", "luck"], "analyses"),
        ({"run": ["mdl", "mdl"]}, "name each once"),
        ({"neighbours": [0]}, "at least 1"),
    ],
)
def test_wrong_settings_are_named(analyses: Any, message: str) -> None:
    base = {"data": {"manifest": "m.csv"}, "lexicon": "l.csv", "run": {"out": "o"}}
    with pytest.raises(UserError, match=message):
        validate(ProbeConfig, base | {"analyses": analyses}, "study")
    with pytest.raises(UserError, match="add unseen_sign to splits"):
        validate(ProbeConfig, base | {"analyses": ["mdl"], "splits": ["seen_sign"]}, "study")
    assert validate(ProbeConfig, base | {"analyses": "knn"}, "study").analyses.run == ("knn",)
    assert not validate(ProbeConfig, base, "study").analyses.run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, a lexicon and files of features; no video is needed."""
    folder = tmp_path_factory.mktemp("analyses")
    targets = corpus()
    header = "EntryID,LemmaID," + ",".join(f"{name}.2.0" for name in FEATURES)
    lines = [header]
    sign = np.unique(targets.signs, return_inverse=True)[1]
    for i in range(SIGNS):
        first = int(np.flatnonzero(sign == i)[0])
        levels = dict.fromkeys(FEATURES, "NA")
        levels |= {name: targets.classes[name][labels[first]] for name, labels in targets.features.items()}
        levels["Movement"] = f"m{i // 2}"  # not probed; keeps signs apart
        lines.append(f"w{i},w{i}," + ",".join(levels.values()))
    (folder / "lexicon.csv").write_text("\n".join(lines) + "\n")
    clips = [
        Clip(clip_id, f"{clip_id}.mp4", gloss=f"w{s}", label=int(s), signer=signer, split="train")
        for clip_id, s, signer in zip(targets.clip_ids.tolist(), sign, targets.signers.tolist(), strict=True)
    ]
    Manifest("m", tuple(clips), folder, tuple(f"w{i}" for i in range(SIGNS))).save(folder / "manifest.csv")
    x = planted(targets)
    order = np.random.default_rng(0).permutation(len(x))
    layers = {"layer.0": np.random.default_rng(1).normal(size=x.shape), "layer.1": x}
    np.savez(folder / "good.npz", clip_ids=targets.clip_ids, **layers)
    np.savez(folder / "mixed.npz", clip_ids=targets.clip_ids[order], **{k: v[order] for k, v in layers.items()})
    return folder


def study_of(folder: Path, out: Path) -> dict[str, Any]:
    return {
        "encoders": [str(folder / "good.npz")],
        "data": {"manifest": str(folder / "manifest.csv")},
        "lexicon": str(folder / "lexicon.csv"),
        "features": list(CLASSES),
        "splits": ["unseen_sign"],
        "folds": 3,
        "probes": FIT.model_dump(),
        "controls": ["majority"],
        "analyses": {"run": list(ANALYSES), "orders": 1, "few_shot_draws": 1},
        "draws": 100,
        "run": {"out": str(out)},
    }


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The study of `folder`, with a run folder of its own."""
    return study_of(folder, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """The study, run whole with all analyses."""
    study = study_of(folder, folder / "run")
    return study, run_probe(validate(ProbeConfig, study, "study"), quiet)


def test_a_run_records_prints_and_reports_its_analyses(
    finished: tuple[dict[str, Any], list[Result]], folder: Path, tmp_path: Path
) -> None:
    study, results = finished
    found = [r for r in results if "analysis" in r.group]
    # Features made elsewhere have no tokens, so no attentive probe.
    assert {r.group["analysis"] for r in found} == set(ANALYSES) - {"attentive"}
    for r in found:
        assert r.provenance.checkpoint_hash
        assert (r.ci_low is None) == (r.metric.startswith("p_") or r.metric == "layer_weight"), r.metric
        assert 0 < int(r.group["signs"]) <= SIGNS
        assert r.n <= SIGNS * SIGNERS
    # The pairs are those of the whole lexicon, also of features that are not probed: the movement is shared by two.
    assert {r.group["setting"] for r in found if r.group["analysis"] == "minimal_pairs"} == pairs_of(study)
    printed = render(results)
    for title in (
        "Description length of labels",
        "Nearest neighbours",
        "Similarity to phonology",
        "Change after erasing",
    ):
        assert title in printed
    # The probe's own numbers are what they are without analyses.
    plain = run_probe(validate(ProbeConfig, study | {"analyses": [], "run": {"out": str(tmp_path / "b")}}, "s"), quiet)
    own = [(r.metric, r.group, r.value) for r in results if "analysis" not in r.group]
    assert own == [(r.metric, r.group, r.value) for r in plain]
    page = build_report([folder / "run"], tmp_path / "report.html").read_text()
    assert "Beyond the linear probe" in page
    assert "Erasing one feature, reading the others: good, m" in page
    assert "Beyond" not in build_report([tmp_path / "b"], tmp_path / "plain.html").read_text()


def pairs_of(study: dict[str, Any]) -> set[str]:
    rows = [line.split(",")[2:] for line in Path(study["lexicon"]).read_text().splitlines()[1:]]
    place = [FEATURES.index(name) for name in (*CLASSES, "Movement")]
    table = np.unique(np.array(rows)[:, place], axis=0)  # equal signs are one group
    count = {0: 0, 1: 0, 2: 0}
    for a in range(len(table)):
        for b in range(a):
            (differs,) = np.nonzero(table[a] != table[b])
            if len(differs) == 1:
                count[int(differs[0])] += 1
    return {f"{n} pairs" for n in count.values() if n}


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def test_the_order_of_rows_changes_nothing(
    study: dict[str, Any], folder: Path, finished: tuple[dict[str, Any], list[Result]]
) -> None:
    mixed = run_probe(validate(ProbeConfig, study | {"encoders": [str(folder / "mixed.npz")]}, "study"), quiet)
    tables = [
        [(r.metric, r.group, r.value, r.ci_low) for r in results if "analysis" in r.group]
        for results in (finished[1], mixed)
    ]
    assert tables[0]
    assert tables[0] == tables[1]


def test_findings_are_kept_and_made_again_when_their_settings_change(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study | {"analyses": {"run": ["knn"], "neighbours": [1]}}
    run_probe(validate(ProbeConfig, study, "study"), quiet)
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setitem(ANALYSES, "knn", lambda _: pytest.fail("made again"))
    run_probe(validate(ProbeConfig, study, "study"), quiet)
    other = study | {"analyses": {"run": ["knn"], "neighbours": [2]}, "run": {"out": str(tmp_path / "other")}}
    (tmp_path / "other" / "analyses").mkdir(parents=True)
    kept = tmp_path / "run" / "analyses" / "good.knn.npz"
    (tmp_path / "other" / "analyses" / "good.knn.npz").write_bytes(kept.read_bytes())
    with pytest.raises(pytest.fail.Exception, match="made again"):
        run_probe(validate(ProbeConfig, other, "study"), quiet)
