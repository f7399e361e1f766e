"""Scoring a finished fine-tuning run again: another split, other views, another manifest, calibrated confidences."""

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
from islr.evaluation.evaluate import (
    CLASSIFIER,
    Scores,
    ViewsConfig,
    labelled_split,
    load_classifier,
    provenance,
    ranked,
    refuse_unread,
    score,
    trained_signers,
    write_scores,
)
from islr.evaluation.finetune import FinetuneConfig, selection_sets
from islr.evaluation.intervals import Interval
from islr.evaluation.results import Provenance, Result
from islr.models import Classifier
from islr.training.distributed.world import World

Split = Literal["val", "test"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Model:
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
    def load(cls, folder: Path) -> "Model":
        """Read a run folder.

        Raises:
            UserError: It holds no finished fine-tuning run.
        """
        config = FinetuneConfig.read(folder)
        return cls(folder, config, *load_classifier(folder / CLASSIFIER))

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder / CLASSIFIER

    def views(self, text: str | None) -> ViewsConfig:
        """`CxS`, or the run's own views; a pose has no spatial crops, whatever is asked for video."""
        chosen = ViewsConfig.parse(text or self.config.views, self.config.video.sampling)
        video = self.classifier.encoder.input_spec.modality == "video"
        return chosen if video else chosen.model_copy(update={"crops": 1})

    def data(self, manifest_path: str | None) -> DataConfig:
        """How clips are read: as in training, from another manifest where one is named."""
        update = {} if manifest_path is None else {"manifest": (manifest_path,)}
        return self.config.data.model_copy(update=update)

    def score(
        self, rows: Manifest, data: DataConfig, views: ViewsConfig, world: World, allow_partial: bool
    ) -> tuple[Scores, Manifest]:
        """Probabilities, columns in the order of the manifest's classes, and the manifest that their rows refer to.

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
        """The classifier's output for each class of the manifest: the same names, in any order."""
        index = {name: place for place, name in enumerate(self.classes)}
        absent = [name for name in manifest.classes if name not in index]
        if absent or len(manifest.classes) != len(self.classes):
            named = f"; it does not know '{absent[0]}'" if absent else ""
            raise UserError(
                f"the classes of {manifest.name} ({len(manifest.classes)}) are not those that the classifier of "
                f"{self.folder} was trained on ({len(self.classes)}){named}"
            )
        return [index[name] for name in manifest.classes]

    def selection(self, test: Manifest | None = None) -> Manifest:
        """The clips that chose the run's epoch, without those of `test` where the run left them out.

        Raises:
            UserError: Its corpus is not here.
        """
        path = self.config.data.manifest[0]
        if not Path(path).is_file():
            raise UserError(f"the clips that chose the epoch of {self.folder} are not here ({path})")
        chosen = selection_sets(Manifest.load(path), self.config)[1]
        if test is not None and self.config.shared_with_test == "drop":
            chosen, _ = without_shared(chosen, test)
        return chosen

    def check_unseen(self, test: Manifest, manifest_path: str | None) -> str:
        """Refuse test clips of another manifest that the run was trained or selected on.

        Clips are the same when they have one id in corpora of one name, or the same pictures. Pictures that a corpus
        has in both its own train and test split are that corpus's matter: the audit names them.

        Returns:
            The selection set in words.

        Raises:
            UserError: Names clips that were seen.
        """
        own_path = self.config.data.manifest[0]
        if manifest_path is None:
            return self.config.select_on
        if not Path(own_path).is_file():
            return f"{self.config.select_on} of a corpus that is not here ({own_path}), so not compared with this split"
        own = Manifest.load(own_path)
        train, selection = selection_sets(own, self.config)
        if own.name == test.name:
            tested = {clip.clip_id for clip in test}
            seen = [clip.clip_id for clip in train if clip.clip_id in tested]
        else:
            train, selection = with_own_ids(train), with_own_ids(selection)
            mine = {clip.clip_id for clip in train}
            groups = [{clip.clip_id for clip in group} for group in same_content(train, test)]
            seen = sorted(name for group in groups if group & mine for name in group - mine)
        if seen:
            raise UserError(
                f"{len(seen)} clips of split test of {test.name} are clips that {self.folder} was trained on, such as "
                f"{seen[0]}; a score on them is no test"
            )
        check_disjoint(selection, test)
        return self.config.select_on


def evaluate_run(
    run: Path,
    *,
    split: Split = "test",
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
    model = Model.load(run)
    if temperature and split == "val":
        raise UserError("the temperature is fitted on the selection set, so that it can be judged on test only")
    cluster = cluster or model.config.cluster
    data = model.data(manifest_path)
    manifest = Manifest.load(data.manifest[0])
    rows = labelled_split(manifest, split, allow_partial, cluster)
    selection = model.check_unseen(rows, manifest_path) if split == "test" else model.config.select_on
    chosen = model.views(views)
    world = World(device or model.config.run.device)
    with world.connected(model.config.run.timeout_s):
        scores, scored = model.score(rows, data, chosen, world, allow_partial)
        divisor = 1.0
        fitted_on = 0
        if temperature:
            held = model.selection(rows)
            theirs, clips = model.score(held, model.data(None), chosen, world, allow_partial=True)
            fitted_on = len(theirs.rows)
            # Both tables have their own manifest's order of classes; the labels are of the same one.
            divisor = fit_temperature(theirs.probabilities, np.array([clips.clips[i].label for i in theirs.rows]))
            scores = replace(scores, probabilities=with_temperature(scores.probabilities, divisor))
            selection += f"; temperature {divisor:.3f} fitted on {fitted_on} of the same clips"
        record = provenance(
            manifest=manifest,
            split=split,
            present=len(scores.rows),
            views=chosen,
            data=data,
            weights=model.weights,
            config=model.config,
            selection=selection,
            seed=model.config.run.seed,
            world=world,
            started=started,
            cluster=cluster,
        )
        other = "" if manifest_path is None else f"_{manifest.name}"
        suffix = "_temperature" if temperature else ""
        folder = run / f"evaluation_{split}_{chosen.clips}x{chosen.crops}{other}{suffix}"
        further = [_temperature_result(divisor, fitted_on, model.config.name, record)] if temperature else []
        if not world.main:
            return []
        folder.mkdir(exist_ok=True)
        signers = trained_signers(model.weights, manifest)
        predictions = ranked(scores, scored)
        return write_scores(folder, predictions, model.config.name, manifest, split, record, signers, further)


def _temperature_result(value: float, clips: int, name: str, record: Provenance) -> Result:
    return Interval(value, None, None, "").record(name, "temperature", clips, record, higher_is_better=False)
