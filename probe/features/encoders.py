"""The encoders and feature files that a probing run names, before any of them is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from islr.errors import UserError
from islr.evaluation.results import LABELLED_ARGUMENTS, encoder_label
from islr.files import file_sha256
from islr.models import Encoder
from islr.models.weights import arguments_in, load_encoder, read_metadata, stages_in
from probe.features.files import is_features_file

ENCODER_FILE, CLASSIFIER_FILE = "encoder.safetensors", "classifier.safetensors"
FINE_TUNING = "fine-tuning"  # the last training stage of an encoder taken out of a classifier
# Stages that do not record `needs_labels`: fine-tuning, and those of encoders made before it was recorded, when
# `supervised` was the only recipe that learned labels; these stay marked.
LABELLED_UNRECORDED = ("supervised", FINE_TUNING)


def trained_with_labels(stages: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the targets of any training stage were sign labels."""
    return any(
        stage.get("needs_labels", "yes" if stage.get("recipe") in LABELLED_UNRECORDED else "no") == "yes"
        for stage in stages
    )


@dataclass(frozen=True)
class EncoderSource:
    """One encoder or feature file to probe, not yet loaded.

    Attributes:
        name: Row of the tables.
        path: Its file.
        sha256: Hash of that file.
        facts: Metadata beside the weights; empty for a feature file.
        mark: Arguments in which it differs from the run's other encoders of its architecture, for its label.
    """

    name: str
    path: Path
    sha256: str
    facts: dict[str, str]
    mark: str = ""

    @property
    def external(self) -> bool:
        """Whether this is a feature file, made elsewhere."""
        return not self.facts

    @property
    def architecture(self) -> str:
        """Registered name, or "features" for a feature file."""
        return self.facts.get("architecture", "features")

    @property
    def label(self) -> str:
        """The encoder as tables call it; of one run, equal labels are equal forms."""
        return "features" if self.external else encoder_label(self.facts) + self.mark

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments that build the architecture."""
        return arguments_in(self.facts, self.path)

    @property
    def form(self) -> dict[str, Any]:
        """Its arguments but drop path, which does nothing in a frozen encoder."""
        return {name: value for name, value in self.arguments.items() if name != "drop_path"}

    @property
    def stages(self) -> list[dict[str, str]]:
        """Stages of its training, fine-tuning included."""
        stages = stages_in(self.facts, self.path)
        if "classes" in self.facts:
            stages.append({"recipe": FINE_TUNING, "manifest": "", "fingerprint": "", "clips": ""})
        return stages

    def load(self) -> Encoder:
        """Load the encoder with its weights."""
        if self.path.name == CLASSIFIER_FILE:
            from islr.evaluation.classifier import load_classifier  # fine-tuned encoders only

            return load_classifier(self.path)[0].encoder
        return load_encoder(self.path)


def find_encoders(paths: Sequence[str]) -> list[EncoderSource]:
    """Resolve the paths of a config to encoders and feature files.

    Raises:
        UserError: A path holds neither weights in our format nor features, or two rows would have the same name.
    """
    sources = [_find_encoder(Path(path)) for path in paths]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two encoders are called '{name}'; rename one's file or the run's name")
    return mark_forms(sources)


def _find_encoder(path: Path) -> EncoderSource:
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        files = [path / name for name in (ENCODER_FILE, CLASSIFIER_FILE) if (path / name).is_file()]
        if not files:
            raise UserError(f"{path}: holds no {ENCODER_FILE}; give a finished run folder, weights or features")
        path = files[0]
    if not path.is_file():
        raise UserError(f"{path}: no such run folder, weights or feature file")
    external = is_features_file(path)
    facts = {} if external else read_metadata(path)
    if not external and "architecture" not in facts:
        raise UserError(f"{path}: no architecture in its metadata; feature files need clip ids")
    standard = path.name in (ENCODER_FILE, CLASSIFIER_FILE)
    name = facts.get("name") or (folder.resolve().name if standard else path.stem)
    return EncoderSource(name, path, file_sha256(path), facts)


def refuse_label_trained(sources: Sequence[EncoderSource]) -> None:
    """Refuse encoders trained with sign labels.

    Raises:
        UserError: There is one; the message names all of them.
    """
    names = [source.name for source in sources if trained_with_labels(source.stages)]
    if names:
        raise UserError(
            f"{', '.join(names)}: trained with sign labels, so no sign is certain to be unseen; leave out, train"
            " without the test signs, or set label_trained=mark"
        )


def mark_forms(sources: Sequence[EncoderSource]) -> list[EncoderSource]:
    """Return the sources, their labels telling apart encoders of one architecture that are built differently."""
    forms: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        if not source.external:
            forms.setdefault(source.architecture, []).append(source.form)

    def mark(source: EncoderSource) -> str:
        mine, others = source.form, forms[source.architecture]
        names = {name for form in others for name in form if form.get(name) != mine.get(name)}
        return "".join(f", {name}={mine.get(name)}" for name in sorted(names - {*LABELLED_ARGUMENTS}))

    return [source if source.external else replace(source, mark=mark(source)) for source in sources]
