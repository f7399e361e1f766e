"""What `islr evaluate` was asked for: one run, several to be fused, or a file of predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from islr.errors import UserError
from islr.evaluation.foreign import evaluate_predictions
from islr.evaluation.fusion import Pool, fuse_runs
from islr.evaluation.rescore import Device, Split, evaluate_run
from islr.evaluation.results import Result


@dataclass(frozen=True)
class Request:
    """The options of the command; None and False are what was not given."""

    runs: list[Path] | None = None
    split: Split = "test"
    views: str | None = None
    manifest: Path | None = None
    allow_partial: bool = False
    cluster: Literal["signer"] | None = None
    temperature: bool = False
    fuse: bool = False
    weights: str | None = None
    pool: Pool | None = None
    predictions: Path | None = None
    name: str | None = None
    out: Path | None = None
    device: Device | None = None

    def refuse(self, kind: str, *options: str) -> None:
        """Refuse options that this kind of evaluation would ignore.

        Raises:
            UserError: Names the first of them.
        """
        for option in options:
            if getattr(self, option):
                raise UserError(f"--{option} does not go with {kind}")


def evaluate_request(request: Request) -> list[Result]:
    """Evaluate what was asked for.

    Raises:
        UserError: The options do not belong together, or see `evaluate_run`, `fuse_runs`, `evaluate_predictions`.
    """
    runs = request.runs or []
    path = str(request.manifest) if request.manifest else None
    if request.predictions is not None:
        if runs:
            raise UserError("give either RUN or --predictions, not both")
        request.refuse("--predictions", "views", "temperature", "fuse", "weights", "pool", "device")
        if request.manifest is None:
            raise UserError("--predictions needs --manifest, which knows what is true")
        return evaluate_predictions(
            request.predictions,
            request.manifest,
            split=request.split,
            name=request.name,
            out=request.out,
            allow_partial=request.allow_partial,
            cluster=request.cluster,
        )
    if request.fuse:
        request.refuse("--fuse", "temperature")
        return fuse_runs(
            runs,
            weights=request.weights or "equal",
            pool=request.pool or "probabilities",
            split=request.split,
            views=request.views,
            manifest_path=path,
            name=request.name,
            out=request.out,
            allow_partial=request.allow_partial,
            cluster=request.cluster,
            device=request.device,
        )
    request.refuse("one run (they are for --fuse or --predictions)", "weights", "pool", "name", "out")
    if len(runs) != 1:
        raise UserError("give one RUN, --fuse with several, or --predictions FILE with --manifest")
    return evaluate_run(
        runs[0],
        split=request.split,
        views=request.views,
        manifest_path=path,
        allow_partial=request.allow_partial,
        cluster=request.cluster,
        temperature=request.temperature,
        device=request.device,
    )
