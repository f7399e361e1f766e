"""The options of `islr evaluate`: one run, several to be fused, or a file of predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from islr.errors import UserError
from islr.evaluation.requests.foreign import evaluate_predictions
from islr.evaluation.requests.fusion import fuse_runs
from islr.evaluation.requests.pooling import Pooling
from islr.evaluation.requests.rescore import Device, EvalSplit, evaluate_run
from islr.evaluation.results import Result


@dataclass(frozen=True)
class Request:
    """The options of the command; None and False stand for options that were not given."""

    runs: list[Path] | None = None
    split: EvalSplit = "test"
    views: str | None = None
    manifest: Path | None = None
    allow_partial: bool = False
    cluster: Literal["signer"] | None = None
    temperature: bool = False
    fuse: bool = False
    weights: str | None = None
    pool: Pooling | None = None
    predictions: Path | None = None
    name: str | None = None
    out: Path | None = None
    device: Device | None = None

    @property
    def manifest_path(self) -> str | None:
        """Path of the manifest, as in a configuration."""
        return str(self.manifest) if self.manifest else None

    def refuse(self, kind: str, *options: str) -> None:
        """Refuse options that this kind of evaluation would ignore.

        Raises:
            UserError: Names the first of them.
        """
        for option in options:
            if getattr(self, option):
                raise UserError(f"--{option} does not go with {kind}")


def evaluate_request(request: Request) -> list[Result]:
    """Evaluate one run, the fusion of several, or a file of predictions.

    Raises:
        UserError: The options do not belong together, or see `evaluate_run`, `fuse_runs`, `evaluate_predictions`.
    """
    if request.predictions is not None:
        return _predictions(request, request.predictions)
    if request.fuse:
        return _fusion(request)
    request.refuse("one run (they are for --fuse or --predictions)", "weights", "pool", "name", "out")
    if request.runs is None or len(request.runs) != 1:
        raise UserError("give one RUN, --fuse with several, or --predictions FILE with --manifest")
    return evaluate_run(
        request.runs[0],
        split=request.split,
        views=request.views,
        manifest_path=request.manifest_path,
        allow_partial=request.allow_partial,
        cluster=request.cluster,
        temperature=request.temperature,
        device=request.device,
    )


def _predictions(request: Request, path: Path) -> list[Result]:
    if request.runs:
        raise UserError("give either RUN or --predictions, not both")
    request.refuse("--predictions", "views", "temperature", "fuse", "weights", "pool", "device")
    if request.manifest is None:
        raise UserError("--predictions needs --manifest, which holds the true classes")
    return evaluate_predictions(
        path,
        request.manifest,
        split=request.split,
        name=request.name,
        out=request.out,
        allow_partial=request.allow_partial,
        cluster=request.cluster,
    )


def _fusion(request: Request) -> list[Result]:
    request.refuse("--fuse", "temperature")
    return fuse_runs(
        request.runs or [],
        weights=request.weights or "equal",
        pool=request.pool or "probabilities",
        split=request.split,
        views=request.views,
        manifest_path=request.manifest_path,
        name=request.name,
        out=request.out,
        allow_partial=request.allow_partial,
        cluster=request.cluster,
        device=request.device,
    )
