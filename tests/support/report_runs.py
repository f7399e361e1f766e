"""Writes a folder of plausible runs, as a grid leaves it, for the report's tests."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from safetensors.numpy import save_file

from islr.evaluation.calibration import calibration_results
from islr.evaluation.metrics import accuracy_results
from islr.evaluation.predictions import rank_scores, write_predictions
from islr.evaluation.results import Provenance, Result, save_results

SIGNS = ("APPLE", "BOOK", "CHAIR", "DRINK", "EAT", "FRIEND", "GO", "HOME", "KNOW", "LOVE", "MOTHER", "ONION")
FEATURES = ("Handshape", "SelectedFingers", "Flexion", "Spread", "ThumbPosition", "SignType", "Movement")
FEATURES += ("RepeatedMovement", "MajorLocation", "MinorLocation", "Contact", "NonDominantHandshape")
CLASSES = (18, 8, 6, 2, 2, 4, 6, 2, 5, 12, 2, 9)
# row -> encoder, recipes, skill of the recogniser, skill of the probe
MODELS: dict[str, tuple[str, tuple[str, ...], float, float]] = {
    "maskfeat": ("mvit_tiny", ("maskfeat",), 1.5, 0.55),
    "supervised": ("mvit_tiny", ("supervised",), 1.2, 0.47),
    "posemae": ("pose_transformer_tiny", ("posemae",), 1.35, 0.62),
    "random init": ("mvit_tiny", (), 0.75, 0.3),
    "random init pose": ("pose_transformer_tiny", (), 1.05, 0.42),
}
HASH = "0123456789abcdef" * 4
ENV = {
    "commit": "9f" * 20,
    "libraries": {"torch": "2.11.0", "numpy": "2.3.1", "av": "14.2.0"},
    "platform": "Linux x86_64",
    "cpus": 2,
    "device": "CPU x86_64, 1 thread(s)",
    "processes": 1,
}


def stage(recipe: str) -> dict[str, str]:
    return {"recipe": recipe, "manifest": "synthetic signs", "fingerprint": HASH, "clips": "1152"}


def provenance(row: str, **changes: Any) -> Provenance:
    encoder, recipes, _, _ = MODELS[row]
    base: dict[str, Any] = {
        "protocol": "isr/1",
        "manifest": "synthetic signs",
        "split": "test",
        "split_fingerprint": HASH[::-1],
        "label_space": "original",
        "label_fingerprint": "ab" * 32,
        "clips_present": 240,
        "clips_expected": 240,
        "selection_set": "val (120 clips)",
        "views": "1x1 whole",
        "decoder": "pyav 14.2.0",
        "encoder": encoder,
        "pretraining": [stage(recipe) for recipe in recipes],
        "seed": 0,
        "config_hash": "c0ffee00" * 8,
        "checkpoint_hash": f"{sum(map(ord, row)):08x}" * 8,
        "commit": ENV["commit"],
        "libraries": ENV["libraries"],
        "device": ENV["device"],
        "wall_time_s": 48.5,
    }
    return Provenance(**{**base, **changes})


def write_runs(root: Path, clips: int = 240, expected: int = 240, with_random: bool = True) -> Path:
    """The whole grid: a corpus, three recipes, five fine-tuned rows, probes, one unfinished and one failed
    run."""
    write_corpus(root / "corpus")
    for recipe in ("maskfeat", "posemae", "supervised"):
        write_pretraining(root / "pretrain" / recipe, recipe)
    for row in MODELS:
        if with_random or "random" not in row:
            write_finetuning(root / "finetune" / row.replace(" ", "_"), row, clips, expected)
    write_probes(root / "probe", with_random)
    unfinished = root / "pretrain" / "videomae"
    write_run(unfinished, {"task": "pretrain", "name": "videomae", "recipe": {"name": "videomae"}})
    write_metrics(unfinished, [{"kind": "train", "step": 30, "epoch": 0.8, "loss": 1.2, "lr": 1e-3}])
    failed = root / "finetune" / "videomae"
    write_run(failed, {"task": "finetune", "name": "videomae"})
    (failed / "error.txt").write_text("Traceback\nRunFailed: the loss is not finite at step 12 (clips a, b)\n")
    return root


def write_run(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "env.json").write_text(json.dumps(ENV))


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_corpus(folder: Path) -> None:
    folder.mkdir(parents=True)
    counts = {"train": 360, "val": 120, "test": 240}
    splits = {
        split: {
            "expected": n,
            "present": n - (2 if split == "train" else 0),
            "missing": 1 if split == "train" else 0,
            "corrupt": 1 if split == "train" else 0,
            "classes": 12,
            "classes_present": 12,
            "signers": n // 60,
            "fingerprint": HASH,
        }
        for split, n in counts.items()
    }
    none = {"signers": 0}
    audit = {
        "name": "synthetic signs",
        "clips": 720,
        "present": 718,
        "splits": splits,
        "corrupt_by_kind": {"truncated": 1},
        "duration_s": {split: {"p50": 1.87, "total_hours": n * 1.9 / 3600} for split, n in counts.items()},
        "fps": {"30.00": 718},
        "resolution": {"256x256": 718},
        "signers": {"all": 12, "overlap": {"train/val": none, "train/test": none, "val/test": none}},
        "same_content": {"groups": 0, "groups_across_splits": 0, "groups_across_labels": 0, "examples": []},
        "poses": {"clips": 718, "with_pose": 718, "share_of_frames_with_hand": {"left": 0.7, "right": 0.98}},
    }
    (folder / "audit.json").write_text(json.dumps(audit))
    (folder / "manifest.json").write_text(json.dumps({"name": "synthetic signs", "fingerprints": {"all": HASH}}))
    rng = np.random.default_rng(0)
    sheet = cv2.resize(rng.integers(90, 220, (6, 24, 3), dtype=np.uint8), (960, 240))
    cv2.imwrite(str(folder / "samples.png"), sheet)


def write_pretraining(folder: Path, recipe: str, cell: tuple[str, str, int] | None = None) -> None:
    encoder = "pose_transformer_tiny" if recipe == "posemae" else "mvit_tiny"
    config: dict[str, Any] = {"task": "pretrain", "name": recipe, "recipe": {"name": recipe}}
    if cell is not None:
        config |= {"name": f"{cell[0]} · {cell[1]} · seed {cell[2]}", "tags": {"method": cell[0], "regime": cell[1]}}
    write_run(folder, config | {"encoder": {"name": encoder}})
    rng = np.random.default_rng(len(recipe) + sum(map(ord, "".join(map(str, cell or ())))))
    scale = {"maskfeat": 0.4, "posemae": 0.02, "supervised": 3.2}[recipe]
    rows = []
    for step in range(10, 601, 10):
        loss = scale * (0.35 + 0.65 * np.exp(-step / 150) + 0.02 * rng.normal())
        rows.append({"kind": "train", "step": step, "epoch": step / 40, "loss": float(loss), "lr": 1e-3})
    write_metrics(folder, rows)
    facts = {"architecture": encoder, "recipe": recipe, "pretraining": json.dumps([stage(recipe)])}
    save_file({"w": np.zeros(2, np.float32)}, folder / "encoder.safetensors", metadata=facts)
    if recipe == "maskfeat" and (cell is None or (cell[1] == REGIMES[0] and cell[0] == "maskfeat")):
        smooth = cv2.resize(rng.integers(0, 255, (4, 16, 3), dtype=np.uint8), (256, 64)).reshape(64, 4, 64, 3)
        picture = smooth.transpose(1, 0, 2, 3)
        masked = picture.copy()
        masked[:, 16:48, 16:48] = 127
        hog = 255 - picture // 2
        panels = {"input": picture, "masked": masked, "target HOG": hog, "predicted HOG": hog // 2 + 60}
        np.savez_compressed(folder / "pictures.npz", **panels)


def write_finetuning(
    folder: Path,
    row: str,
    clips: int,
    expected: int,
    cell: tuple[str, str, int] | None = None,
    gain: float = 0.0,
    draws: int = 400,
    data: str = "",
) -> None:
    """One fine-tuned run; in a grid with its `cell` (method, regime, seed), its `gain` over the row's skill, and
    `data`, the manifest it reads."""
    encoder, _, skill, _ = MODELS[row]
    skill += gain
    name = "random init" if "random" in row else row
    config: dict[str, Any] = {"task": "finetune", "name": name, "encoder": {"name": encoder}}
    if cell is not None:
        name = f"{cell[0]} · {cell[1]} · seed {cell[2]}"
        config |= {"name": name, "tags": {"method": cell[0], "regime": cell[1]}, "data": {"manifest": [data]}}
    write_run(folder, config)
    rng = np.random.default_rng(sum(map(ord, row + "".join(map(str, cell or ())))))
    k = len(SIGNS)
    labels = np.arange(clips) % k
    noise = np.random.default_rng(5).normal(size=(clips, k)) + 0.6 * rng.normal(size=(clips, k))
    noise[np.arange(clips), labels] += 2.2 * skill
    noise[np.arange(clips), (labels // 2) * 2 + (labels + 1) % 2] += 1.2
    scores = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
    ids = [f"clip{i:04d}" for i in range(clips)]
    made = rank_scores(scores, labels, SIGNS, ids, [f"signer {i // 12 % 4 + 9}" for i in range(clips)])
    write_predictions(folder / "predictions.csv", made)
    record = provenance(row, clips_present=clips, clips_expected=expected, seed=cell[2] if cell else 0)
    records = accuracy_results(made, name, k, record, trained_signers={"signer 9", "signer 11"}, draws=draws)
    save_results(folder / "result.json", records + calibration_results(made, name, record))
    rows: list[dict[str, Any]] = []
    for step in range(10, 401, 10):
        loss = 2.5 * np.exp(-step / 200 * skill) + 0.1 + 0.03 * rng.normal()
        rows.append({"kind": "train", "step": step, "epoch": step / 40, "loss": float(loss), "lr": 1e-3})
        if step % 40 == 0:
            top1 = 0.9 * (1 - np.exp(-step / 160 * skill)) + 0.01 * rng.normal()
            rows.append(
                {
                    "kind": "val",
                    "step": step,
                    "epoch": step / 40,
                    "loss": float(loss) + 0.2,
                    "top1": float(top1),
                }
            )
    write_metrics(folder, rows)


METHODS = ("maskfeat", "videomae", "svt", "bevt", "posemae", "dpc pose", "supervised", "dpc")
REGIMES = ("generic", "sign", "generic_then_sign", "mixed")


def write_grid(root: Path, methods: int = 8, regimes: int = 4, seeds: int = 2, clips: int = 60, data: str = "") -> Path:
    """Write runs as `islr bench` leaves them: methods x regimes x seeds, random initialisations, and probes."""
    found: dict[str, list[Result]] = {}
    for number, method in enumerate(METHODS[:methods]):
        row = "posemae" if "pose" in method else "maskfeat"
        for step, regime in enumerate(REGIMES[:regimes]):
            for seed in range(seeds):
                name = f"{method} · {regime} · seed {seed}"
                folder = f"{method}-{regime}-s{seed}".replace(" ", "-")
                cell, gain = (method, regime, seed), 0.25 * step - 0.2 * number
                write_finetuning(root / f"finetune-{folder}", row, clips, clips, cell, gain, 60, data)
                write_pretraining(root / f"pretrain-{folder}", row, cell)
                results = probe_results(row, with_random=True, ease=0.02 * (step + seed))
                found[name] = [
                    r.model_copy(update={"name": name, "provenance": r.provenance.model_copy(update={"seed": seed})})
                    for r in results
                    if ":" not in r.metric
                ]
    for row in ("random init", "random init pose"):
        for seed in range(seeds):
            cell = (row, "scratch", seed)
            folder = root / f"finetune-{row.replace(' ', '-')}-s{seed}"
            write_finetuning(folder, row, clips, clips, cell, 0.0, 60, data)
        found[row] = probe_results(row, with_random=True)
    write_run(root / "probe", {"task": "probe", "name": "probe"})
    for number, records in enumerate(found.values()):
        save_results(root / "probe" / f"result-{number:02d}.json", records)
    save_results(root / "probe" / "result.json", majority_results())
    return root


def write_probes(folder: Path, with_random: bool = True) -> None:
    """One result file for each row, as probing writes them; the majority class comes last."""
    write_run(folder, {"task": "probe", "name": "probes"})
    rows = [row for row in MODELS if with_random or "random" not in row]
    for number, row in enumerate(rows):
        save_results(folder / f"result-{number:02d}-{row.replace(' ', '-')}.json", probe_results(row, with_random))
    save_results(folder / "result.json", majority_results())
    (folder / "details.json").write_text(json.dumps({"coverage": {"signs": 12, "clips": 720}, "fits": []}))


def probe_record(row: str, **changes: Any) -> Provenance:
    chosen = {"selection_set": "0.2 of the training sign groups, held out"}
    return provenance(
        row, protocol="probe/1", split="unseen_sign+seen_sign", label_space="lexicon.csv", **chosen, **changes
    )


def probe_result(
    name: str, record: Provenance, value: float, metric: str, half: float | None, group: dict[str, str]
) -> Result:
    return Result(
        name=name,
        metric=metric,
        value=value,
        ci_low=None if half is None else value - half,
        ci_high=None if half is None else value + half,
        ci_method="" if half is None else "cluster bootstrap over sign groups within folds, 2000 draws",
        n=240,
        higher_is_better=metric != "p_holm",
        provenance=record,
        group=group,
    )


def group_of(feature: str, split: str, layer: str = "chosen", control: str = "") -> dict[str, str]:
    return {"feature": feature, "split": split, "layer": layer, "control": control}


def majority_results() -> list[Result]:
    record = probe_record("maskfeat", encoder="", pretraining=[], checkpoint_hash="")
    chances = [*zip(FEATURES, CLASSES, strict=True), ("mean:bundles", 5)]
    return [
        probe_result("majority", record, 1 / k, "balanced_accuracy", 0.0, group_of(f, split, control="majority"))
        for split in ("unseen_sign", "seen_sign")
        for f, k in chances
    ]


def probe_results(row: str, with_random: bool, ease: float = 0.0) -> list[Result]:
    encoder, _, _, skill = MODELS[row]
    skill += ease
    random = "random" in row
    name, control = ("random init", "random-init") if random else (row, "")
    record = probe_record(row)
    rng = np.random.default_rng(len(row))
    found: list[Result] = []
    totals: dict[tuple[str, str], list[float]] = {}
    gaps = []
    for feature, classes in zip(FEATURES, CLASSES, strict=True):
        easy, base = rng.uniform(0.7, 1.2), 1 / classes
        for split, bonus in (("unseen_sign", 0.0), ("seen_sign", 0.18)):
            for layer in ("0", "1", "2", "3", "chosen"):
                depth = 1.0 if layer == "chosen" else 0.55 + 0.15 * int(layer)
                value = base + (1 - base) * min(0.95, (skill * easy + bonus) * depth)
                group = group_of(feature, split, layer, control)
                found.append(probe_result(name, record, value, "balanced_accuracy", 0.05, group))
                totals.setdefault((split, layer), []).append(value)
            if not random:
                group = group_of(feature, split, control="permuted")
                found.append(probe_result(name, record, base + bonus / 9, "balanced_accuracy", 0.03, group))
                group = group_of(feature, split)
                found.append(probe_result(name, record, value - base, "selectivity", 0.06, group))
        if not random and with_random:
            gap = (skill - (0.42 if "pose" in encoder else 0.3)) * (easy - 0.45) * (1 - base)
            group = group_of(feature, "unseen_sign")
            found.append(probe_result(name, record, gap, "balanced_accuracy_difference", 0.08, group))
            found.append(probe_result(name, record, min(1.0, float(np.exp(-50 * gap + 2.5))), "p_holm", None, group))
            gaps.append(gap)
            for other in ("posemae", "supervised"):
                if (row, other) in (
                    ("maskfeat", "posemae"),
                    ("maskfeat", "supervised"),
                    ("posemae", "supervised"),
                ):
                    delta = MODELS[row][3] - MODELS[other][3]
                    found.append(probe_result(name, record, delta, f"difference_to:{other}", 0.08, group))
                    found.append(probe_result(name, record, 0.03, f"p_holm:{other}", None, group))
    for (split, layer), values in totals.items():
        group = group_of("mean:bundles", split, layer, control)
        found.append(probe_result(name, record, float(np.mean(values)), "balanced_accuracy", 0.03, group))
    if gaps:
        group = group_of("mean:bundles", "unseen_sign")
        found.append(probe_result(name, record, float(np.mean(gaps)), "balanced_accuracy_difference", 0.04, group))
    return found
