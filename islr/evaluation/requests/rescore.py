"""Evaluation of a finished fine-tuning run on another split, views or manifest, or with calibrated confidences."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from islr.data.audit.duplicates import check_disjoint, same_content, with_own_ids, without_shared
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.calibration import fit_temperature, with_temperature
from islr.evaluation.classifier import CLASSIFIER, load_classifier, trained_signers
from islr.evaluation.finetune import check_test_unseen, selection_sets
from islr.evaluation.finetuning.config import FinetuneConfig
from islr.evaluation.intervals import Interval
from islr.evaluation.provenance import provenance
from islr.evaluation.results import Provenance, Result
from islr.evaluation.scoring import (
    Scores,
    ViewsConfig,
    labelled_split,
    note_unread,
    ranked,
    refuse_unread,
    score,
    write_scores,
)
from islr.models import Classifier
from islr.training.distributed.world import World

EvalSplit = Literal["val", "test"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class FinishedRun:
    """A finished fine-tuning run, ready to score clips.

    Attributes:
        folder: Its run folder.
        config: Its resolved configuration.
        classifier: Rebuilt from the folder's weights.
        classes: Class name of each of the classifier's outputs.
    """

    folder: Path
    config: FinetuneConfig
    classifier: Classifier
    classes: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "FinishedRun":
        """Read a run folder.

        Raises:
            UserError: It holds no finished fine-tuning run.
        """
        config = FinetuneConfig.read(folder)
        return cls(folder, config, *load_classifier(folder / CLASSIFIER))

    @property
    def weights(self) -> Path:
        """Path of its weights."""
        return self.folder / CLASSIFIER

    def views(self, text: str | None) -> ViewsConfig:
        """`CxS`, or the run's own views; poses have no spatial crops, whatever is requested for video."""
        chosen = self.config.scored_views(text)
        video = self.classifier.encoder.input_spec.modality == "video"
        return chosen if video else chosen.model_copy(update={"crops": 1})

    def data(self, manifest_path: str | None) -> DataConfig:
        """Return the data options of the training run, with another manifest where one is named."""
        update = {} if manifest_path is None else {"manifest": (manifest_path,)}
        return self.config.data.model_copy(update=update)

    def score(
        self, rows: Manifest, data: DataConfig, views: ViewsConfig, world: World, allow_partial: bool
    ) -> tuple[Scores, Manifest]:
        """Return probabilities, columns in the order of the manifest's classes, and the manifest of their rows.

        Raises:
            UserError: The manifest has other classes, or clips cannot be read and `allow_partial` is not set.
        """
        order = self._columns(rows)
        store = ClipStore(rows, data)
        scores = score(
            self.classifier,
            store,
            views,
            batch_size=self.config.optim.batch_size,
            world=world,
            precision=self.config.run.precision,
        )
        refuse_unread(scores, store, allow_partial)
        return replace(scores, probabilities=scores.probabilities[:, order]), store.manifest

    def _columns(self, manifest: Manifest) -> list[int]:
        """Return the classifier's output number of each class of the manifest: the same names, in any order."""
        index = {name: place for place, name in enumerate(self.classes)}
        absent = [name for name in manifest.classes if name not in index]
        if absent or len(manifest.classes) != len(self.classes):
            named = f"; the classifier has no class '{absent[0]}'" if absent else ""
            raise UserError(
                f"the classes of {manifest.name} ({len(manifest.classes)}) are not those that the classifier of "
                f"{self.folder} was trained on ({len(self.classes)}){named}"
            )
        return [index[name] for name in manifest.classes]

    def selection(self, test: Manifest | None = None) -> Manifest:
        """Return the clips that chose the run's epoch, without those of `test` where the run left them out.

        Raises:
            UserError: Its corpus is not here.
        """
        path = self.config.data.manifest[0]
        if not Path(path).is_file():
            raise UserError(f"the manifest of the selection set of {self.folder} does not exist ({path})")
        chosen = selection_sets(Manifest.load(path), self.config)[1]
        if test is not None and self.config.shared_with_test == "drop":
            chosen, _ = without_shared(chosen, test)
        return chosen

    def checked_selection(self, rows: Manifest, split: str, manifest_path: str | None) -> str:
        """Name the selection set, and refuse test clips of another manifest that the run was trained or selected on.

        Clips are the same when they have one id in corpora of one name, or identical content. Content that a corpus
        has in both its own train and test split is reported by the audit instead.

        Args:
            rows: The clips to score.
            split: Their split; only test clips are checked.
            manifest_path: The manifest they come from, where it is not the run's own.

        Raises:
            UserError: Names clips of the test set that the run has used.
        """
        own_path = self.config.data.manifest[0]
        if manifest_path is None or split != "test":
            return self.config.select_on
        check_test_unseen(str(self.weights), rows)
        if not Path(own_path).is_file():
            return f"{self.config.select_on} of a corpus not on this machine ({own_path}); overlap not checked"
        own = Manifest.load(own_path)
        train, selection = selection_sets(own, self.config)
        if own.name == rows.name:
            tested = {clip.clip_id for clip in rows}
            used = [clip.clip_id for clip in train if clip.clip_id in tested]
        else:
            train, selection = with_own_ids(train), with_own_ids(selection)
            mine = {clip.clip_id for clip in train}
            groups = [{clip.clip_id for clip in group} for group in same_content(train, rows)]
            used = sorted(name for group in groups if group & mine for name in group - mine)
        if used:
            raise UserError(
                f"{self.folder} was trained on {len(used)} clips of the test split of {rows.name}, such as {used[0]}; "
                "score clips that it was not trained on"
            )
        check_disjoint(selection, rows)
        return self.config.select_on

    def provenance(
        self,
        manifest: Manifest,
        split: str,
        present: int,
        views: ViewsConfig,
        *,
        data: DataConfig,
        selection: str,
        world: World,
        started: float,
        cluster: Literal["signer"] | None,
    ) -> Provenance:
        """Return the provenance of the run's scores on `split`; see `islr.evaluation.provenance.provenance`."""
        return provenance(
            manifest=manifest,
            split=split,
            present=present,
            views=views,
            data=data,
            weights=self.weights,
            config=self.config,
            selection=selection,
            seed=self.config.run.seed,
            world=world,
            started=started,
            cluster=cluster,
        )


def evaluate_run(
    run: Path,
    *,
    split: EvalSplit = "test",
    views: str | None = None,
    manifest_path: str | None = None,
    allow_partial: bool = False,
    cluster: Literal["signer"] | None = None,
    temperature: bool = False,
    device: Device | None = None,
) -> list[Result]:
    """Score a finished fine-tuning run again.

    The numbers go to `evaluation_<split>_<views>[_<manifest>][_temperature]/` inside the run folder.

    Args:
        run: Folder of a finished fine-tuning run.
        split: What is scored.
        views: `CxS`; default the run's own.
        manifest_path: Another corpus with the same class names, in any order.
        allow_partial: Score n of the expected clips.
        cluster: "signer" draws whole signers in intervals; default as the run's configuration says.
        temperature: Divide log-probabilities by the temperature that fits the selection set best.
        device: Default as the run's configuration says.

    Raises:
        UserError: No finished run there, the manifest's classes are not the classifier's, clips are missing, or it
            shares clips with those the run was trained or selected on.
    """
    started = time.monotonic()
    model = FinishedRun.load(run)
    if temperature and split == "val":
        raise UserError("the temperature is fitted on the selection set, so it can be judged on test only")
    cluster = cluster or model.config.cluster
    data = model.data(manifest_path)
    manifest = Manifest.load(data.manifest[0])
    rows = labelled_split(manifest, split, allow_partial, cluster)
    selection = model.checked_selection(rows, split, manifest_path)
    chosen = model.views(views)
    world = World(device or model.config.run.device)
    with world.connected(model.config.run.timeout_s):
        scores, scored = model.score(rows, data, chosen, world, allow_partial)
        fitted = _fit_temperature(model, rows, chosen, world) if temperature else None
        if fitted is not None:
            scores = replace(scores, probabilities=with_temperature(scores.probabilities, fitted.value))
            selection += f"; temperature {fitted.value:.3f} fitted on {fitted.clips} of the same clips"
        record = model.provenance(
            manifest,
            split,
            len(scores.rows),
            chosen,
            data=data,
            selection=selection,
            world=world,
            started=started,
            cluster=cluster,
        )
        if not world.main:
            return []
        unreadable = note_unread(scores, scored, split, model.config.name)
        record = record.model_copy(update={"unreadable": unreadable})
        other = "" if manifest_path is None else f"_{manifest.name}"
        suffix = "_temperature" if temperature else ""
        folder = run / f"evaluation_{split}_{chosen.clips}x{chosen.crops}{other}{suffix}"
        folder.mkdir(exist_ok=True)
        signers = trained_signers(model.weights, manifest)
        predictions, name = ranked(scores, scored), model.config.name
        further = [] if fitted is None else [fitted.record(name, record)]
        return write_scores(folder, predictions, name, manifest, split, record, signers, further)


@dataclass(frozen=True)
class _Temperature:
    """A fitted temperature and the number of clips it was fitted on."""

    value: float
    clips: int

    def record(self, name: str, provenance: Provenance) -> Result:
        """Return its result record."""
        interval = Interval(self.value, None, None, "")
        return interval.record(name, "temperature", self.clips, provenance, higher_is_better=False)


def _fit_temperature(model: FinishedRun, test: Manifest, views: ViewsConfig, world: World) -> _Temperature:
    """Fit the temperature on the run's selection set."""
    scores, scored = model.score(model.selection(test), model.data(None), views, world, allow_partial=True)
    # Labels index the classes of the selection set's own manifest, and so do the columns of its scores.
    labels = np.array([scored.clips[row].label for row in scores.rows])
    return _Temperature(fit_temperature(scores.probabilities, labels), len(scores.rows))
