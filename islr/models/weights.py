"""Weights on disk: safetensors with the facts to rebuild the encoder, loaded strictly.

There is no way to load a pickle here.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from islr.config import Config
from islr.errors import UserError, one_line
from islr.files import write_atomic
from islr.models import create_model
from islr.models.encoder import Encoder, EncoderConfig
from islr.models.front_end import RGB
from islr.untrusted.json_files import parse_json

# What weights may be; float8 and float4 have no arithmetic, and complex numbers no place.
NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_SPARSE_FROM = 1 << 28  # bytes
Stage = dict[str, str]  # recipe, manifest, fingerprint and clips of one training, in a file's metadata
_PICKLE_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # torch.save's zip, bare pickles


def export_encoder(encoder: Encoder, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write an encoder as safetensors; the name only ever holds a complete file.

    Args:
        encoder: Made by `create_model`, so that it can be rebuilt.
        path: Target file.
        metadata: Facts to keep beside the weights (config hash, recipe, pre-training manifests);
            `architecture`, `arguments` and `input_spec` are added.
    """
    assert encoder.architecture, "only an encoder made by create_model can be rebuilt from its file"
    facts = dict(metadata) | {
        "format": "pt",
        "architecture": encoder.architecture,
        "arguments": json.dumps(dict(encoder.arguments), sort_keys=True),
        "input_spec": encoder.input_spec.to_json(),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    write_atomic(Path(path), serialise(tensors, facts))


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors as a safetensors file whose bytes depend on its content alone.

    The library writes metadata in an order that changes from process to process; equal weights would then
    have different hashes. Here the header is sorted.
    """
    raw = save(dict(tensors), metadata=dict(metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + raw[end:]


def load_encoder(path: str | Path, **overrides: Any) -> Encoder:
    """Rebuild an exported encoder with its weights.

    Args:
        path: A file written by `export_encoder`.
        overrides: Arguments to change, such as `frames` or `size`; position tables are then resized as
            `load_weights` says.

    Raises:
        UserError: The file is not such an export, or the overrides do not fit its architecture or its input.
    """
    metadata = read_metadata(path)
    if "architecture" not in metadata or "arguments" not in metadata:
        raise UserError(f"{path}: no architecture in its metadata; it was not exported by this project")
    stored = arguments_in(metadata, path)
    trained, wanted = stored.get("input", RGB), overrides.get("input", stored.get("input", RGB))
    if trained != wanted:
        raise UserError(
            f"{path} was trained with input={trained}, not input={wanted}; weights do not change their input"
        )
    encoder = rebuild(metadata["architecture"], stored | overrides, path)
    load_weights(encoder, path)
    return encoder


def rebuild(architecture: str, arguments: Mapping[str, Any], where: object) -> Encoder:
    """Build the encoder that a file's metadata describes.

    Raises:
        UserError: The description builds none.
    """
    try:
        return create_model(architecture, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        # Arguments come from anybody, and encoders check those that people write into configurations.
        raise UserError(f"{where}: its metadata builds no {architecture} ({one_line(error)})") from error


def build_encoder(config: EncoderConfig, **overrides: Any) -> Encoder:
    """Build the encoder of a config, with its weights where it names some.

    Args:
        config: Name, arguments and weights file.
        overrides: Arguments that win over the config's.

    Raises:
        UserError: Unknown name or argument, or the weights are of another architecture.
    """
    arguments = dict(config.arguments) | overrides
    if config.weights is None:
        return create_model(config.name, **arguments)
    architecture = read_metadata(config.weights).get("architecture", "")
    if architecture != config.name:
        raise UserError(f"{config.weights} holds '{architecture or 'nothing named'}', not the wanted '{config.name}'")
    return load_encoder(config.weights, **arguments)


def load_weights(encoder: Encoder, path: str | Path, allow_missing: Collection[str] = ()) -> None:
    """Load weights strictly.

    Only tables of learned positions may differ in length from the file's (`Encoder.resize_parameter`: linear
    interpolation along the positions); every other difference in names or shapes is an error.

    Args:
        encoder: Filled in place.
        path: A safetensors file whose names are the encoder's.
        allow_missing: Exact parameter names that the file need not have.

    Raises:
        UserError: Names the first parameters that do not fit, or one that this version does not have any more.
    """
    load_state(encoder, read_tensors(path), str(path), allow_missing)


def load_state(encoder: Encoder, state: Mapping[str, Tensor], where: str, allow_missing: Collection[str] = ()) -> None:
    """As `load_weights`, from tensors already in memory; `where` names them in errors."""
    refuse_retired(encoder, state, where)
    own = encoder.state_dict()
    fitted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in own:
            continue
        if value.shape != own[name].shape:
            resized = encoder.resize_parameter(name, value, own[name].shape)
            if resized is None or resized.shape != own[name].shape:
                raise UserError(f"{where}: '{name}' is {list(value.shape)}, the encoder needs {list(own[name].shape)}")
            value = resized
        fitted[name] = value
    unknown = sorted(set(state) - set(own))
    missing = sorted(set(own) - set(state) - set(allow_missing))
    for names, problem in (
        (unknown, "has tensors the encoder does not"),
        (missing, "lacks tensors of the encoder"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{where} {problem}: {shown}")
    encoder.load_state_dict(own | fitted)


def refuse_retired(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Refuse tensors of an encoder of an earlier version, for a module that is or holds such an encoder.

    Raises:
        UserError: Says what has changed.
    """
    for place, part in module.named_modules():
        if isinstance(part, Encoder):
            for name, reason in part.retired.items():
                if (f"{place}.{name}" if place else name) in state:
                    raise UserError(f"{where} holds '{name}' of an earlier version: {reason}")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        UserError: Missing, truncated, or not safetensors (pickles are refused, never opened).
    """
    return _read(path)[0]


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; raises as `read_tensors`."""
    return _read(path, tensors=False)[1]


def refuse_no_weights(path: Path) -> None:
    """Refuse what is no file, and a large file that is mostly holes: reading it would fill the memory with zeros.

    Raises:
        UserError: Says which.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    status = path.stat()
    if status.st_size > _SPARSE_FROM and status.st_blocks * 512 < status.st_size // 16:
        raise UserError(f"{path}: {status.st_size:,} bytes, of which {status.st_blocks * 512:,} are on the disk")


def is_pickle(path: str | Path) -> bool:
    """Whether a file is a pickle, bare or in torch's zip, and not a safetensors file.

    A safetensors file begins with the length of its header, whose bytes can be those of a pickle; four zeros (it is
    shorter than 4 GiB) and a brace follow.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(_PICKLE_STARTS) and start[4:] != b"\0\0\0\0{"


def _read(path: str | Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(path)
    refuse_no_weights(path)
    if is_pickle(path):
        raise UserError(
            f"{path}: is a pickle, which can run code when opened; only safetensors files are loaded "
            "(`islr weights import` reads public checkpoints and writes one)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        # Beside its own error, the library lets through torch's for types that torch lacks.
        raise UserError(f"{path}: truncated or not a safetensors file of tensors that torch has ({error})") from error
    odd = [name for name, value in found.items() if value.dtype not in NUMBERS]
    if odd:
        raise UserError(f"{path}: '{odd[0]}' is {found[odd[0]].dtype}; weights are floating point of 16 bits or more")
    return found, metadata


class ClipsSeen(Config):
    """The clips of one training.

    Attributes:
        recipe: What trained on them.
        manifest: Name of the corpus.
        transductive: Whether unlabelled clips of an evaluation's val or test were declared.
        clips: See `islr.data.audit.clip_digests`.
    """

    recipe: str
    manifest: str
    transductive: bool
    clips: str


def arguments_in(facts: Mapping[str, str], where: object) -> dict[str, Any]:
    """Return the arguments that rebuild the encoder.

    Raises:
        UserError: The metadata is damaged.
    """
    found: dict[str, Any] = parse_json(dict[str, Any], facts.get("arguments", "{}"), f"{where}: metadata 'arguments'")
    return found


def stages_in(facts: Mapping[str, str], where: object) -> list[Stage]:
    """Return the stages of the encoder's training, in order; raises as `arguments_in`."""
    found: list[Stage] = parse_json(list[Stage], facts.get("pretraining", "[]"), f"{where}: metadata 'pretraining'")
    return found


def exposure_in(facts: Mapping[str, str], where: object) -> list[ClipsSeen]:
    """Return the clips of every stage of the encoder's training; raises as `arguments_in`."""
    found: list[ClipsSeen] = parse_json(list[ClipsSeen], facts.get("exposure", "[]"), f"{where}: metadata 'exposure'")
    return found


def exposure_text(seen: Iterable[ClipsSeen]) -> str:
    """Return the text that `exposure_in` reads."""
    return json.dumps([one.model_dump() for one in seen])
