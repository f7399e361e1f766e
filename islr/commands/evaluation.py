"""`islr finetune`, `islr evaluate` and `islr report`. They import inside their functions for a fast `--help`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from islr.commands.arguments import ConfigFile, Overrides, print_once
from islr.config_files import read_task


def finetune_command(config: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune an encoder, select on val, and score test once."""
    tree = read_task("finetune", config, overrides or [])
    from islr.config import validate
    from islr.evaluation.finetune import run_finetune
    from islr.evaluation.finetuning.config import FinetuneConfig

    resolved = validate(FinetuneConfig, tree, config)
    _print_results(run_finetune(resolved))


def evaluate_command(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="finished fine-tuning runs")] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="split to score")] = "test",
    views: Annotated[str | None, typer.Option(help="CxS: temporal clips x spatial crops; default: the run's")] = None,
    manifest: Annotated[Path | None, typer.Option(help="another corpus with the same classes")] = None,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="score even if clips are missing, and print how many were scored"),
    ] = False,
    cluster: Annotated[
        Literal["signer"] | None, typer.Option(help="bootstrap over whole signers instead of clips")
    ] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="calibrate confidences with a temperature fitted on the selection set")
    ] = False,
    fuse: Annotated[bool, typer.Option("--fuse", help="average the predictions of two or more runs")] = False,
    weights: Annotated[
        str | None, typer.Option(help="fuse: equal, val (fitted on val), or numbers such as 2,1")
    ] = None,
    pool: Annotated[
        Literal["probabilities", "logits"] | None, typer.Option(help="fuse: what to average; default: probabilities")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="another model's predictions, with --manifest: csv of clip_id, rank1, rank2, ... (class names; "
            "score1, score2, ... and true_probability where known), csv of clip_id and one column per class, or npz of "
            "clip_ids, classes and probabilities or logits"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="fuse, predictions: name of the row in tables")] = None,
    out: Annotated[Path | None, typer.Option(help="fuse, predictions: folder for the results")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="default: as in the run")] = None,
) -> None:
    """Score a finished run, a fusion of several, or the predictions of another model."""
    options = dict(locals())  # by the names of Request's fields
    from islr.evaluation.requests.request import Request, evaluate_request

    _print_results(evaluate_request(Request(**options)))


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or folders that contain them")],
    out: Annotated[
        Path, typer.Option(help=".html, .md, .tex, .csv (all records), or a folder (all tables as CSV)")
    ] = Path("report.html"),
    frames: Annotated[
        bool, typer.Option(help="show frames of clips; --no-frames leaves out all pictures of signers")
    ] = True,
) -> None:
    """Render run folders as one report. Needs neither videos nor a GPU."""
    from islr.reporting import build_report

    print(build_report(runs, out, frames=frames))


def _print_results(results: list[Any]) -> None:
    """Print the overall scores of a run, one a line, and caveats of their intervals on stderr."""
    for result in results:
        if result.group or not result.metric.startswith(("top", "mrr", "dcg")):
            continue
        record = result.provenance
        part = "" if record.complete else f" of {record.clips_expected} expected"
        bounds = "" if result.ci_low is None else f" [{100 * result.ci_low:.2f}, {100 * result.ci_high:.2f}]"
        views = f", views {record.views}" if record.encoder else ""
        print_once(
            f"{result.name}: {result.metric} {100 * result.value:.2f} %{bounds} on {result.n}{part} clips of "
            f"{record.manifest} {record.split}{views}"
        )
    overall = [result for result in results if not result.group]
    doubts = {f"intervals are over {few}" for r in overall if (few := r.ci_method.partition("; ")[2])}
    if any(r.metric == "top1" and r.provenance.cluster and r.ci_low is None for r in overall):
        doubts = {"all clips are of one signer, so there is no interval over signers"}
    for doubt in sorted(doubts):
        print(f"islr: {doubt}", file=sys.stderr)
