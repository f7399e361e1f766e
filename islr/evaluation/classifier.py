"""The file of a fine-tuned classifier: its weights, its classes, and what it remembers of its training clips."""

import json
from pathlib import Path
from typing import Any

from islr.config import Config
from islr.data.manifest import Manifest
from islr.errors import UserError, one_line
from islr.files import write_atomic
from islr.models import Classifier
from islr.models.encoder import HeadNorm
from islr.models.weights import arguments_in, read_metadata, read_tensors, rebuild, refuse_retired, serialise
from islr.untrusted.json_files import parse_json

CLASSIFIER = "classifier.safetensors"


class TrainingFacts(Config):
    """What a classifier's file holds about its training clips."""

    manifest: str
    fingerprint: str
    clips: int
    signers: tuple[str, ...]


def save_classifier(path: Path, classifier: Classifier, facts: dict[str, Any]) -> None:
    """Write a classifier as safetensors with what is needed to rebuild it."""
    encoder = classifier.encoder
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    metadata |= {
        "format": "pt",
        "architecture": encoder.architecture,
        "arguments": json.dumps(dict(encoder.arguments), sort_keys=True),
        "input_spec": encoder.input_spec.to_json(),
    }
    state = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    write_atomic(path, serialise(state, metadata))


def load_classifier(path: Path) -> tuple[Classifier, tuple[str, ...]]:
    """Rebuild a saved classifier and return it with its class names.

    Raises:
        UserError: No such file, or not a classifier written by a fine-tuning run, or one of an earlier version.
    """
    facts = read_metadata(path)
    if "classes" not in facts or "architecture" not in facts:
        raise UserError(f"{path}: not a classifier written by a fine-tuning run")
    classes = tuple(parse_json(list[str], facts["classes"], f"{path}: metadata 'classes'"))
    encoder = rebuild(facts["architecture"], arguments_in(facts, path), path)
    norm: HeadNorm = "batch" if facts.get("head_norm") == "batch" else "layer"
    classifier = Classifier(encoder, len(classes), norm=norm)
    state = read_tensors(path)
    refuse_retired(classifier, state, path)
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: its tensors are not those of the classifier it describes ({one_line(error)})"
        ) from error
    return classifier, classes


def training_facts(train: Manifest) -> str:
    """Return the facts about the training clips that a classifier's file holds, as JSON."""
    signers = tuple(sorted({clip.signer for clip in train if clip.signer}))
    facts = TrainingFacts(manifest=train.name, fingerprint=train.fingerprint(), clips=len(train), signers=signers)
    return json.dumps(facts.model_dump(), ensure_ascii=False)


def trained_signers(weights: Path, manifest: Manifest) -> frozenset[str] | None:
    """Return the signers of `manifest` that the classifier was trained on.

    None where its file does not say, where its training clips name no signer, or where it was trained on another
    corpus: names of signers mean nothing beyond their own.
    """
    text = read_metadata(weights).get("training")
    if text is None:
        return None
    facts: TrainingFacts = parse_json(TrainingFacts, text, f"{weights}: metadata 'training'")
    if facts.manifest != manifest.name or not facts.signers:
        return None
    return frozenset(facts.signers)
