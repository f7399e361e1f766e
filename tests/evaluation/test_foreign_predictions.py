"""Predictions of other models: layouts, mistakes in one line, half precision."""

import csv
import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from support.fine_tuned import top1

from islr.cli import run
from islr.data.manifest import Manifest
from islr.evaluation.requests.foreign import evaluate_predictions, read_foreign
from islr.evaluation.requests.fusion import fuse_runs
from islr.evaluation.requests.rescore import evaluate_run
from islr.evaluation.results import load_results
from islr.reporting import build_report


@pytest.fixture
def foreign(mini_corpus: Path, tmp_path: Path) -> tuple[Manifest, Path]:
    """The corpus without a single file on this machine, and a folder to write predictions to."""
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    absent = manifest.replace(dataclasses.replace(c, status="missing") for c in manifest)
    dataclasses.replace(absent, root=tmp_path).save(tmp_path / "m.csv")
    return manifest, tmp_path


def table_of(manifest: Manifest, seed: int = 0) -> tuple[list[str], np.ndarray]:
    ids = [clip.clip_id for clip in manifest.select("test")]
    return ids, np.random.default_rng(seed).dirichlet(np.ones(len(manifest.classes)), len(ids))


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_three_layouts_of_the_same_answers_give_the_same_numbers(foreign: tuple[Manifest, Path]) -> None:
    manifest, folder = foreign
    ids, table = table_of(manifest)
    order = np.random.default_rng(1).permutation(len(ids))
    columns = np.random.default_rng(2).permutation(len(manifest.classes))
    names = [manifest.classes[i] for i in columns]
    shuffled = [ids[i] for i in order]
    wide = write_csv(
        folder / "wide.csv",
        ["clip_id", *names],
        [[ids[i], *map(repr, table[i, columns].tolist())] for i in order],
    )
    ranks = np.argsort(-table, axis=1)
    labels = {clip.clip_id: clip.label for clip in manifest}
    ranked = write_csv(
        folder / "ranked.csv",
        ["clip_id", *(f"rank{k}" for k in range(1, 7)), *(f"score{k}" for k in range(1, 7)), "true_probability"],
        [
            [
                ids[i],
                *(manifest.classes[j] for j in ranks[i]),
                *(repr(float(table[i, j])) for j in ranks[i]),
                repr(float(table[i, labels[ids[i]]])),
            ]
            for i in order
        ],
    )
    arrays = {"clip_ids": np.array(shuffled), "classes": np.array(names)}
    np.savez(folder / "p.npz", **arrays, probabilities=table[order][:, columns])
    np.savez(folder / "l.npz", **arrays, logits=np.log(table[order][:, columns]) + 7)
    found = {
        path.name: {
            (r.metric, *r.group.items()): r.value
            for r in evaluate_predictions(path, folder / "m.csv", name="theirs", out=folder / f"out-{path.stem}")
        }
        for path in (wide, ranked, folder / "p.npz", folder / "l.npz")
    }
    first = found["wide.csv"]
    assert {"top1", "top5", "nll", "ece"} <= {key[0] for key in first}
    for other in found.values():
        assert other.keys() == first.keys()
        assert list(other.values()) == pytest.approx(list(first.values()))
    truth = [labels[name] for name in ids]
    assert first["top1",] == pytest.approx(top_k_accuracy_score(truth, table, k=1, labels=range(6)))
    assert first["top5",] == pytest.approx(top_k_accuracy_score(truth, table, k=5, labels=range(6)))


def test_a_foreign_row_stands_in_the_table_of_our_runs(
    foreign: tuple[Manifest, Path], runs: Path, mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    ids, _ = table_of(manifest)
    path = write_csv(folder / "theirs.csv", ["clip_id", "rank1"], [[name, manifest.classes[0]] for name in ids])
    (tmp_path / "all").mkdir()
    command = f"evaluate --predictions {path} --manifest {folder / 'm.csv'} --name Theirs --out {tmp_path}/all/theirs"
    assert run(command.split()) == 0
    assert "gives no rank beyond 1: mrr and dcg are unknown" in capsys.readouterr().err
    results = load_results(tmp_path / "all" / "theirs" / "result.json")
    assert {r.metric for r in results if not r.group} == {"top1", "top1_per_class", "chance_top1", "classes_absent"}
    assert top1(results).value == pytest.approx(1 / 6)
    assert top1(results).provenance.complete
    evaluate_run(runs / "video")
    shutil.copytree(runs / "video" / "evaluation_test_1x1", tmp_path / "all" / "ours")
    fuse_runs([runs / "video", runs / "pose"], out=tmp_path / "all" / "fused")
    ours = load_results(tmp_path / "all" / "ours" / "result.json")[0].provenance
    theirs = top1(results).provenance
    assert (theirs.split_fingerprint, theirs.label_fingerprint) == (ours.split_fingerprint, ours.label_fingerprint)
    page = build_report([tmp_path / "all"], tmp_path / "report.md").read_text()
    table = page.partition("Accuracy on")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert len(re.findall(r"^\| (?:\[)?(?:Theirs|video|video \+ pose)\b", table, flags=re.M)) == 3
    assert "not stated" in table
    assert "its encoder is not stated" in page


def bad_files(manifest: Manifest, folder: Path) -> dict[str, tuple[Path, str]]:
    ids, table = table_of(manifest)
    classes = list(manifest.classes)
    train = manifest.select("train").clips[0].clip_id
    plain = [[name, classes[0]] for name in ids]
    wide = [[name, *row] for name, row in zip(ids, table.tolist(), strict=True)]

    def made(name: str, header: list[str], rows: list[list[object]], words: str) -> None:
        found[name] = (write_csv(folder / f"{name}.csv", header, rows), words)

    def saved(name: str, words: str, **arrays: Any) -> None:
        np.savez(folder / f"{name}.npz", **arrays)
        found[name] = (folder / f"{name}.npz", words)

    found: dict[str, tuple[Path, str]] = {}
    made("missing", ["clip_id", "rank1"], plain[1:], f"5 of the 6 clips .*1 are missing, such as {ids[0]}")
    made("unknown", ["clip_id", "rank1"], [*plain, ["nobody", classes[0]]], "line 8: clip 'nobody' is not a labelled")
    made("train", ["clip_id", "rank1"], [*plain, [train, classes[0]]], f"line 8: clip '{train}' is not a labelled")
    made("twice", ["clip_id", "rank1"], [*plain, plain[0]], f"clip {ids[0]} occurs more than once")
    made("label", ["clip_id", "rank1"], [*plain[:-1], [ids[-1], "CUPP"]], "line 7: 'CUPP' is not one of the 6 classes")
    made("index", ["clip_id", "rank1"], [[name, 0] for name in ids], "line 2: '0' is not one of the 6 classes")
    made("columns", ["clip", "label"], plain, "a csv with columns clip_id, rank1")
    made("classes", ["clip_id", *classes[1:]], [row[:-1] for row in wide], f"this file has no '{classes[0]}'")
    made("more", ["clip_id", *classes, "ZZZ"], [[*row, 0] for row in wide], "the manifest has no 'ZZZ'")
    made("sum", ["clip_id", *classes], [[row[0], *(2 * float(v) for v in row[1:])] for row in wide], "sum to 1")
    made("text", ["clip_id", *classes], [[*wide[0][:-1], "high"], *wide[1:]], "line 2: could not convert")
    made("short", ["clip_id", *classes], [wide[0], wide[1][:-1]], "line 3: 6 cells and 7 columns")
    made("wide twice", ["clip_id", *classes], [*wide, wide[0]], f"clip {ids[0]} occurs more than once")
    made("wide unknown", ["clip_id", *classes], [*wide, ["nobody", *table[0]]], "such as 'nobody'")
    made("empty", ["clip_id", *classes], [], "no predictions in it")
    arrays = {"clip_ids": np.array(ids), "classes": np.array(classes)}
    saved("no table", "exactly one of 'probabilities' and 'logits'; it holds clip_ids, classes", **arrays)
    saved("no ids", "needs 'clip_ids'", classes=arrays["classes"], probabilities=table)
    saved("shape", r"not floating point \[6 clips, 6 classes\]", **arrays, probabilities=table[:, 1:])
    saved("nan", f"clip {ids[0]} has no probabilities", **arrays, logits=np.where(table == table[0, 0], np.nan, table))
    saved("bytes", "'clip_ids' must be a list of texts", **arrays | {"clip_ids": np.arange(6)}, probabilities=table)
    saved("objects", "not an npz of plain arrays", **arrays | {"clip_ids": np.array(ids, object)}, probabilities=table)
    (folder / "cut.npz").write_bytes((folder / "shape.npz").read_bytes()[:200])
    found["cut"] = (folder / "cut.npz", "not an npz of plain arrays")
    found["absent"] = (folder / "absent.csv", "cannot be read as CSV")
    return found


def test_what_is_wrong_with_a_file_of_predictions_is_said_in_one_line(
    foreign: tuple[Manifest, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    for name, (path, words) in bad_files(manifest, folder).items():
        out = folder / "out"
        command = ["evaluate", "--predictions", str(path), "--manifest", str(folder / "m.csv"), "--out", str(out)]
        assert run(command) == 2, name
        said = capsys.readouterr().err.strip()
        assert "\n" not in said, name
        assert re.search(words, said), (name, said)
        assert not out.exists(), name


def test_part_of_a_test_set_is_scored_only_on_request(
    foreign: tuple[Manifest, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    path, _ = bad_files(manifest, folder)["missing"]
    command = ["evaluate", "--predictions", str(path), "--manifest", str(folder / "m.csv"), "--allow-partial"]
    assert run(command) == 0
    assert "on 5 of 6 expected clips" in capsys.readouterr().out
    record = load_results(folder / "missing_test" / "result.json")[0].provenance
    assert (record.clips_present, record.clips_expected) == (5, 6)


def test_half_precision_probabilities_are_taken(foreign: tuple[Manifest, Path]) -> None:
    manifest, folder = foreign
    ids, table = table_of(manifest)
    arrays = {"clip_ids": np.array(ids), "classes": np.array(manifest.classes)}
    np.savez(folder / "half.npz", **arrays, probabilities=table.astype(np.float16))
    read = read_foreign(folder / "half.npz", manifest.select("test"))
    assert read.true_probabilities == pytest.approx(
        [table[i, clip.label or 0] for i, clip in enumerate(manifest.select("test"))], abs=1e-3
    )
