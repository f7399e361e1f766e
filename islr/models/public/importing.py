"""Public weights -> one of our encoders and its file, strictly, with where they come from written beside them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from islr.errors import UserError
from islr.models import Encoder, create_model
from islr.models.front_end import RGB
from islr.models.layouts import LAYOUTS, Layout, choose_layout, layouts_of, load_layout
from islr.models.layouts.layout import shown
from islr.models.public.reader import PublicFile, State, non_finite, open_public
from islr.models.weights import export_encoder

TIMM, HUB = "timm:", "hf-hub:"  # sources that are names in timm's registry or on its hub, not files
PUBLIC = "public weights"  # stands for the recipe of a stage that others ran


_MOST_SHOWN = 2000  # characters of one value of the metadata


class Imported(NamedTuple):
    """An encoder with foreign weights.

    Attributes:
        encoder: Holds them.
        layout: Of the file.
        arguments: What the encoder was built with, beside its defaults.
        taken: Our names of the tensors that came from the file.
        resized: Those of them that were interpolated to another input size.
        left: The file's names that stayed behind.
        fresh: Our names that the file does not hold; they are as initialised.
    """

    encoder: Encoder
    layout: Layout
    arguments: dict[str, Any]
    taken: list[str]
    resized: list[str]
    left: list[str]
    fresh: list[str]


def open_source(source: str) -> PublicFile:
    """Read what `islr weights import` names: a file, a folder, `timm:NAME` or `hf-hub:OWNER/NAME`.

    Raises:
        UserError: As `open_public`; timm does not know the name or cannot reach it.
    """
    return _open_timm(source) if source.startswith((TIMM, HUB)) else open_public(source)


def import_weights(
    source: PublicFile, architecture: str, layout: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Imported:
    """Build an encoder and fill it from a foreign file.

    Args:
        source: The file.
        architecture: Registry name of the encoder.
        layout: Name of the file's layout; found out from the tensors' names when None.
        arguments: Of the encoder; they win over what the tensors say.

    Raises:
        UserError: The file is our own, is of no or of several layouts, has tensors that nothing is known of, lacks
            some, has others of another shape, or values that are not finite; an input that no public weights have.
    """
    where = str(source.path)
    if "architecture" in source.metadata:
        raise UserError(f"{where} was written by this project; it is used as it is (encoder.weights={where})")
    given = dict(arguments or {})
    with torch.device("meta"):
        create_model(architecture, **given)  # an unknown name or argument is said before all else
    if given.get("input", RGB) != RGB:
        raise UserError(f"input={given['input']}: public weights were trained with input={RGB}; leave input out")
    chosen = _layout(source, architecture, layout)
    state = source.state(chosen.entries)
    built = chosen.arguments(chosen.strip(state)) | given
    encoder = create_model(architecture, **built)
    own = {name: value.shape for name, value in encoder.state_dict().items()}
    renamed = load_layout(encoder, state, chosen, where)
    broken = non_finite(renamed.tensors)
    if broken:
        raise UserError(f"{where}: values that are not finite in {shown(broken)}")
    return Imported(
        encoder,
        chosen,
        built,
        taken=sorted(renamed.tensors),
        resized=sorted(name for name, value in renamed.tensors.items() if value.shape != own[name]),
        left=sorted(renamed.left),
        fresh=sorted(own.keys() - renamed.tensors.keys()),
    )


def write_imported(imported: Imported, source: PublicFile, out: Path, commit: str) -> None:
    """Write an imported encoder as one of our files; its training by others is its first stage.

    Args:
        imported: From `import_weights`.
        source: Where it came from.
        out: The safetensors file.
        commit: Of the code that imports.
    """
    origin = {"file": source.path.name, "sha256": source.sha256, "layout": imported.layout.name}
    stage = {"recipe": PUBLIC, "manifest": source.path.name, "fingerprint": source.sha256, "clips": "unknown"}
    facts = {
        "name": out.stem,
        "recipe": PUBLIC,
        "pretraining": json.dumps([stage]),
        "source": json.dumps(origin | {"project": imported.layout.source}, sort_keys=True),
        "fresh": json.dumps(imported.fresh),
        "commit": commit,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    export_encoder(imported.encoder, out, facts)


def report(imported: Imported) -> list[str]:
    """Describe the import, line by line."""
    own = dict(imported.encoder.named_parameters())
    count = sum(own[name].numel() for name in imported.taken if name in own)
    given = ", ".join(f"{key}={value}" for key, value in imported.arguments.items())
    lines = [
        f"layout    {imported.layout.name}: {imported.layout.source}",
        f"encoder   {imported.encoder.architecture}({given})",
        f"imported  {len(imported.taken)} tensors, {count:,} of {sum(p.numel() for p in own.values()):,} parameters",
    ]
    for word, names in (("resized", imported.resized), ("left", imported.left), ("fresh", imported.fresh)):
        lines.append(f"{word:9} {f'{len(names)} tensors: {shown(names)}' if names else 'nothing'}")
    return lines


def summarise(source: PublicFile) -> dict[str, Any]:
    """Return the mapping that `islr weights show` prints as JSON."""
    layouts = [layout for layout in LAYOUTS.values() if layout.matches(_part(source, layout))]
    parts = {name: part for name, part in source.content.items() if isinstance(part, Mapping)}
    counts = {name: sum(isinstance(value, Tensor) for value in part.values()) for name, part in parts.items()}
    entries = {name: f"{count} tensors" for name, count in counts.items() if count}
    largest = max(entries, key=lambda name: counts[name], default="")
    state = _part(source, layouts[0]) if layouts else source.state((largest,))
    return {
        "file": str(source.path),
        "sha256": source.sha256,
        **({"entries": entries} if entries else {}),
        "tensors": len(state),
        "elements": sum(value.numel() for value in state.values()),
        "types": dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values())),
        "not finite": non_finite(state),
        "metadata": {name: _shown(value) for name, value in source.metadata.items()},
        "layouts": [f"{layout.name} (into {', '.join(layout.families)})" for layout in layouts],
    }


def _shown(text: str) -> str:
    """Return a value of the metadata, cut where it is long: digests of training clips are."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text):,} characters)"


def _part(source: PublicFile, layout: Layout) -> State:
    """Return the tensors at a layout's entries; none for another project's file."""
    try:
        return source.state(layout.entries)
    except UserError:
        return {}


def _layout(source: PublicFile, architecture: str, name: str | None) -> Layout:
    fitting = [LAYOUTS[known] for known in layouts_of(architecture)]
    if not any(_part(source, layout) for layout in fitting):
        source.state(fitting[0].entries if fitting else ())  # says why
    if name is None:
        return choose_layout(partial(_part, source), architecture, str(source.path))
    known = ", ".join(layouts_of(architecture)) or "none"
    if name not in LAYOUTS:
        raise UserError(f"unknown layout '{name}'; known for {architecture}: {known}")
    chosen = LAYOUTS[name]
    if not chosen.fits(architecture):
        raise UserError(f"layout {name} cannot be imported into {architecture}; its layouts: {known}")
    if not chosen.matches(_part(source, chosen)):
        raise UserError(f"{source.path} is not of layout {name}; its tensors: {shown(_part(source, chosen))}")
    return chosen


def _open_timm(source: str) -> PublicFile:
    import timm

    name = source.removeprefix(TIMM)
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # a hub may hold pickles, and not every timm refuses them
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of the registry, the hub's client, the network
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: timm cannot give these weights ({type(error).__name__}: {line})") from error
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].numpy().tobytes())
    return PublicFile(Path(source), digest.hexdigest(), state, {})
