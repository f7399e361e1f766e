"""`islr demo`: a whole study on the embedded corpus, from nothing to `report.html`.

Two vocabularies without a common sign are rendered. The source vocabulary has labels: supervised pre-training learns
them. The target vocabulary is what is recognised: the self-supervised recipes see its training clips without labels.
Every encoder is fine-tuned on the target's training signers and scored on unseen signers; frozen
encoders are probed for phonology on signs that the probe has not seen.

Each stage is a command line that a user could type; the study only adds the order. `islr/study/stages.py` runs it.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from islr.config_files import override
from islr.errors import RunFailed
from islr.evaluation.results import Result, load_results
from islr.study.launchers import Execute, Processes
from islr.study.stages import Stage, StageOutcome, run_stages

# 18 signers x 48 signs: 12 to train on, 2 to select on, 4 unseen ones. The source vocabulary has no test.
CORPUS = ("--reps", "1", "--size", "112", "--difficulty", "easy")
TARGET = (*CORPUS, "--name", "target", "--signs", "48", "--signers", "18", "--test-signers", "4", "--seed", "0")
SOURCE = (
    *(*CORPUS, "--name", "source", "--vocabulary", "b", "--signs", "60", "--signers", "9"),
    *("--val-signers", "1", "--test-signers", "0", "--seed", "7"),
)
VIDEO, POSE = "smoke/finetune_video.yaml", "smoke/finetune_pose.yaml"


def demo_stages(out: Path, workers: int) -> list[Stage]:
    """Return the stages of the study in `out`; `workers` processes render each of the two corpora, side by side."""
    target, source = out / "target" / "manifest.csv", out / "source" / "manifest.csv"
    render = ("--workers", str(workers))
    stages = [
        Stage("render target", ("synth", str(target.parent), *TARGET, *render), target, cost=100),
        Stage("render source", ("synth", str(source.parent), *SOURCE, *render), source, cost=99),
        _audit("target", target),
        _audit("source", source),
        _pretrain("maskfeat", out, [str(target), str(source)], ("render target", "render source"), cost=90),
        _pretrain("supervised", out, str(source), ("render source",), cost=60),
        _pretrain("posemae", out, [str(target), str(source)], ("render target", "render source"), cost=50),
        _finetune("random-init", VIDEO, out, target, cost=45),
        _finetune("maskfeat", VIDEO, out, target, "MaskFeat", cost=46),
        _finetune("supervised", VIDEO, out, target, "supervised transfer", cost=44),
        _finetune("random-init-pose", POSE, out, target, cost=20),
        _finetune("posemae", POSE, out, target, "PoseMAE", cost=21),
    ]
    encoders = ("maskfeat", "supervised", "posemae")
    stages.append(
        Stage(
            "probe",
            (
                "probe",
                "smoke/probe.yaml",
                override("encoders", [str(out / "runs" / f"pretrain-{name}") for name in encoders]),
                override("data.manifest", str(target)),
                override("lexicon", str(target.parent / "lexicon.csv")),
                override("run.out", str(out / "runs" / "probe")),
            ),
            out / "runs" / "probe" / "result.json",
            tuple(f"pretrain {name}" for name in encoders),
            cost=80,
        )
    )
    return stages


def _audit(name: str, manifest: Path) -> Stage:
    done = manifest.with_name("audit.json")
    return Stage(f"audit {name}", ("data", "audit", str(manifest), "--out", str(done)), done, (f"render {name}",))


def _pretrain(name: str, out: Path, manifest: str | list[str], needs: tuple[str, ...], cost: float) -> Stage:
    run = out / "runs" / f"pretrain-{name}"
    arguments = ("pretrain", f"smoke/{name}.yaml", override("data.manifest", manifest), override("run.out", str(run)))
    return Stage(f"pretrain {name}", arguments, run / "encoder.safetensors", needs, cost=cost)


def _finetune(name: str, config: str, out: Path, manifest: Path, row: str = "", cost: float = 1) -> Stage:
    """Return the fine-tuning of the encoder pre-trained under the same name, or, without `row`, of random weights."""
    run = out / "runs" / f"finetune-{name}"
    arguments = ["finetune", config, override("data.manifest", str(manifest)), override("run.out", str(run))]
    needs = ["render target"]
    if row:
        arguments += [
            override("name", row),
            override("encoder.weights", str(out / "runs" / f"pretrain-{name}" / "encoder.safetensors")),
        ]
        needs.append(f"pretrain {name}")
    return Stage(f"finetune {name}", tuple(arguments), run / "result.json", tuple(needs), cost=cost)


def run_demo(out: Path, execute: Execute, processes: int | None = None) -> Path:
    """Run the study and render the report; continue where an earlier launch stopped.

    Args:
        out: Folder for the corpora, the runs and the report.
        execute: Runs one command line of this program (`islr.cli.run`).
        processes: Stages at once; default one per CPU core.

    Returns:
        The report.

    Raises:
        RunFailed: A stage failed; its last line is part of the message.
        Interrupted: A signal came; launched again, the study goes on.
    """
    began = time.monotonic()
    count = processes or os.cpu_count() or 1
    stages = demo_stages(out, max(1, count // 2))
    print(f"islr demo: {len(stages)} stages on {count} CPU cores, results in {out}", flush=True)
    outcomes = run_stages(stages, Processes(execute), out / "logs", count)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        raise RunFailed(f"stage '{failed[0].stage.name}' failed: {failed[0].why}")
    report = out / "report.html"
    code = execute(["report", str(out), "--out", str(report)])
    if code:
        raise RunFailed(f"the report could not be made (exit {code})")
    _summary(outcomes)
    print(f"\n{report.resolve()}  ({time.monotonic() - began:.0f} s)")
    return report


def _summary(outcomes: Sequence[StageOutcome]) -> None:
    """Print the fine-tuned models and what the frozen encoders encode, as two small tables."""
    console = Console()
    table = Table("model", "top-1 %", "95 % interval", "clips", title="Isolated signs, unseen signers")
    chance = 0.0
    for outcome in outcomes:
        if not outcome.stage.name.startswith("finetune"):
            continue
        results = {result.metric: result for result in load_results(outcome.stage.done) if not result.group}
        top1, chance = results["top1"], results["chance_top1"].value
        table.add_row(top1.name, f"{100 * top1.value:.1f}", _interval(top1), str(top1.n))
    table.caption = f"chance {100 * chance:.1f} %"
    console.print(table)
    folder = next(outcome.stage.done.parent for outcome in outcomes if outcome.stage.name == "probe")
    rows = [
        result
        for path in sorted(folder.glob("result*.json"))  # one file a row: each row has a provenance of its own
        for result in load_results(path)
        if is_headline(result)
    ]
    table = Table(
        "encoder",
        "balanced accuracy %",
        "95 % interval",
        title="Phonology from frozen features, unseen signs",
    )
    for result in rows:
        encoder = f" ({result.provenance.encoder})" if result.group.get("control") == "random-init" else ""
        table.add_row(result.name + encoder, f"{100 * result.value:.1f}", _interval(result))
    table.caption = "mean over bundles of features; the report has every feature"
    console.print(table)


def is_headline(result: Result) -> bool:
    """Return whether a probe record is the mean over bundles of an encoder or a baseline on unseen signs."""
    group = result.group
    return (
        result.metric == "balanced_accuracy"
        and group.get("feature") == "mean:bundles"
        and group.get("split") == "unseen_sign"
        and group.get("layer") == "chosen"
        and group.get("control") != "permuted"
    )


def _interval(result: Result) -> str:
    if result.ci_low is None or result.ci_high is None:
        return ""
    return f"{100 * result.ci_low:.1f} to {100 * result.ci_high:.1f}"
