"""The model card beside exported weights: architecture, training, results, intended use."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic

from islr.evaluation.results import Result, load_results
from islr.models.weights import arguments_in, read_metadata, stages_in
from islr.reporting.document import text
from islr.untrusted.json_files import parse_json

FACTS = (("recipe", "recipe"), ("config_hash", "configuration"), ("seed", "seed"), ("commit", "code"))


def model_card(run_folder: Path, files: Sequence[Path]) -> str:
    """Return the card as Markdown.

    Args:
        run_folder: Folder of the run; its `result.json` is read where there is one.
        files: Weights of the run, at least one.

    Raises:
        UserError: A file is not safetensors, or the results are broken.
    """
    facts = read_metadata(files[-1])  # of a classifier rather than of the encoder it started from
    results = load_results(run_folder / "result.json") if (run_folder / "result.json").is_file() else []
    name = results[0].name if results else facts.get("name", run_folder.resolve().name)
    parts = [f"# {name}", _architecture(facts, files), _training(facts, results)]
    if results:
        parts.append(_scores(results))
    parts.append(_use(facts, results))
    return "\n\n".join(parts) + "\n"


class _Spec(pydantic.BaseModel, extra="allow"):
    """What a card says of an encoder's input."""

    modality: str
    frames: int
    size: int = 0
    channels: str = ""
    mean: list[float] = []
    std: list[float] = []


def _spec(facts: Mapping[str, str]) -> _Spec:
    found: _Spec = parse_json(_Spec, facts.get("input_spec", "{}"), "metadata 'input_spec'")
    return found


def _architecture(facts: Mapping[str, str], files: Sequence[Path]) -> str:
    spec = _spec(facts)
    arguments = arguments_in(facts, files[-1])
    built = ", ".join(f"{key}={value!r}" for key, value in sorted(arguments.items()))
    lines = [
        "## Model",
        "",
        f"- Files: {', '.join(f'`{file.name}`' for file in files)}; their metadata is beside them as json.",
        f"- Architecture: `create_model({facts.get('architecture', '')!r}{f', {built}' if built else ''})`.",
    ]
    if spec.modality == "video":
        lines.append(
            f"- Input: {spec.frames} frames of {spec.size} x {spec.size} pixels, {spec.channels.upper()}, "
            f"scaled to 0..1, then mean {spec.mean} and standard deviation {spec.std} per channel."
        )
    else:
        lines.append(f"- Input: {spec.frames} poses of 75 points (x, y, detected), normalised by this project.")
    if "classes" in facts:
        classes: list[str] = parse_json(list[str], facts["classes"], "metadata 'classes'")
        lines.append(f"- Output: scores of {len(classes):,} classes, listed in the metadata.")
    return "\n".join(lines)


def _training(facts: Mapping[str, str], results: Sequence[Result]) -> str:
    lines = ["## Training", ""]
    stages = stages_in(facts, "the weights")
    lines += [
        f"{number}. {stage.get('recipe', '?')} on {stage.get('manifest', '?')}: {stage.get('clips', '?')} clips, "
        f"fingerprint `{stage.get('fingerprint', '')}`" + (f"; task {stage['pretext']}" if stage.get("pretext") else "")
        for number, stage in enumerate(stages, 1)
    ] or ["No pre-training: random initialisation."]
    if "source" in facts:
        source: dict[str, str] = parse_json(dict[str, str], facts["source"], "metadata 'source'")
        file, sha, project = (source.get(key, "?") for key in ("file", "sha256", "project"))
        lines += ["", f"Imported from `{file}` (sha256 `{sha}`), {project}."]
    shown = dict(facts)
    if results:
        record = results[0].provenance
        shown |= {"config_hash": record.config_hash, "seed": str(record.seed), "commit": record.commit}
        lines += ["", f"Fine-tuned on {record.manifest}; chosen on {record.selection_set}."]
    lines += ["", *(f"- {name}: `{shown[key]}`" for key, name in FACTS if shown.get(key))]
    return "\n".join(lines)


def _scores(results: Sequence[Result]) -> str:
    record = results[0].provenance
    part = "" if record.complete else f" of {record.clips_expected:,} expected"
    lines = [
        "## Results",
        "",
        f"{record.clips_present:,}{part} clips of {record.manifest}, split {record.split} "
        f"(fingerprint `{record.split_fingerprint}`), labels {record.label_space}, views {record.views}, "
        f"protocol {record.protocol}.",
        "",
        "| measure | % | 95 % interval | n |",
        "|---|---|---|---|",
    ]
    for result in results:
        if result.group or result.ci_low is None or not text.is_fraction(result.metric):
            continue
        measure = text.METRICS.get(result.metric, result.metric)
        interval = text.interval(result.ci_low, result.ci_high)
        lines.append(f"| {measure} | {text.percent(result.value)} | {interval} | {result.n:,} |")
    return "\n".join(lines)


def _use(facts: Mapping[str, str], results: Sequence[Result]) -> str:
    spec = _spec(facts)
    whole = "a whole clip of one sign" if "classes" in facts else "a clip"
    lines = [
        "## Use and limits",
        "",
        f"For research on isolated sign recognition: it takes {whole}, from which its frames are sampled evenly. "
        f"It was not made for continuous signing, for translation, or for decisions about people.",
        "",
        "- The results hold for signers, cameras and signs like those of the corpora above; others were not measured.",
        "- It distinguishes left from right unless its configuration has `flip`."
        if spec.modality == "video"
        else "- It depends on the pose estimator: in frames without detected hands it cannot see the sign.",
        "- The terms of the corpora it was trained on apply to it; check them before passing it on.",
    ]
    if not results and "classes" not in facts:
        lines.append("- It is an encoder: recognition needs a classifier trained on it.")
    return "\n".join(lines)
