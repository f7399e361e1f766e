"""A probing run: features of every encoder and control, probes on every split, records with intervals.

Protocol probe/1. Splits are fixed before any feature is seen and kept in files; headline: signs the probe
never saw. Features are standardised on a fold's training clips; penalty and layer are chosen inside them, by
macro-F1 on held-out sign groups (signers or clips, for seen signs); the probe is fitted again on all training
clips; every sign group is tested once and the predictions of all folds are pooled. Missing labels are masked.

What a number estimates: the score this procedure has on average, over samples of this many signs from the
population that the corpus's signs were drawn from, trained on four fifths of them and tested on signs like them
(`seen_sign`: on the official test part). Its interval is about the choice of signs: sign groups are resampled, and
the result is widened because signs train each other's probes (`probe.statistics.dependence`). It is not about other
signers, other recordings or other seeds of the encoder.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from islr.config import config_hash
from islr.data.audit.duplicates import same_content
from islr.data.loading.mixing import load_manifests
from islr.data.manifest import Manifest
from islr.data.packs.reader import decoder_name
from islr.data.phonology import join, read_asl_lex
from islr.data.views.views import View
from islr.environment import commit, libraries
from islr.errors import Interrupted, UserError
from islr.evaluation.results import Provenance, Result, as_table, load_results, save_results
from islr.files import slug, write_atomic
from islr.models import Encoder
from islr.processes.signals import StopSignal
from islr.progress import ProgressBar
from islr.training.determinism import prepare_process
from islr.training.distributed.world import World, device_name
from islr.training.run_folder import run_folder
from islr.training.wandb_run import WandbRun
from probe import controls
from probe.analyses import Material, analyse
from probe.config import ProbeConfig, Source, check_forms, check_labels, find_encoders
from probe.features.extractor import Extractor
from probe.features.features import Features, read_features
from probe.features.tokens import Tokens
from probe.findings import Finding
from probe.fitting import FitConfig, Outcome, run_split, work_key
from probe.records import ANALYSED, Recorder, Row, details
from probe.splits import SPLITS, Split, save, without_shared
from probe.statistics.draws import Board
from probe.targets import Targets, targets_from

__all__ = ["PROTOCOL", "RESULT", "ProbeConfig", "Study", "run_probe"]

PROTOCOL = "probe/1"
RESULT = "result.json"
GUESSES = (  # rows without features; last of all, so that their records are those in `result.json`
    ("sign identity", "sign-identity", controls.sign_identity),
    ("majority", "majority", controls.majority),
)
Progress = Callable[[int, int], None]


def run_probe(config: ProbeConfig, progress: Progress | None = None) -> list[Result]:
    """Probe encoders and controls; resumes by features and by row; a finished run is read back.

    The run folder gets `splits/*.json`, `features/`, `predictions/`, `details.json`, `result-<row>.json` for
    every row with an encoder or features of its own, and last `result.json` with the rows that need none.

    Args:
        config: The run.
        progress: Called with (steps done, steps in all); None shows a progress bar.

    Raises:
        UserError: The configuration does not fit the data.
        Interrupted: Stopped by a signal; what was finished is kept.
    """
    world = World(config.run.device)
    if world.size > 1:
        raise UserError("probing runs in one process; start it without torchrun")
    prepare_process(config.run.threads)
    study = Study(config, world)
    with run_folder(config, config.run.out, world) as folder, StopSignal() as stop:
        if (folder / RESULT).is_file():
            return _read_results(folder)
        total = study.steps()
        if progress is not None:
            results = study.run(folder, stop, progress, total)
        else:
            with ProgressBar(f"{config.name}: probing", total) as bar:
                results = study.run(folder, stop, bar.callback, total)
        with WandbRun(folder, config.run.wandb, config) as wandb_run:
            wandb_run.table("probe/results", *as_table(results))
        return results


def _read_results(folder: Path) -> list[Result]:
    files = sorted(folder.glob("result-*.json"))
    return [result for file in [*files, folder / RESULT] for result in load_results(file)]


class Study:
    """One run: its clips, targets, splits and rows."""

    def __init__(self, config: ProbeConfig, world: World) -> None:
        self.config, self.world, self.started = config, world, time.monotonic()
        self.manifest: Manifest = load_manifests(config.data.manifest)
        table = read_asl_lex(config.lexicon, config.columns)
        phonology = join(self.manifest, table, by=config.join_by, policy=config.ambiguous)
        self.coverage = phonology.coverage
        self.label_space = table.name
        same = [[clip.clip_id for clip in clips] for clips in same_content(self.manifest)]
        self.targets: Targets = targets_from(self.manifest, phonology, table, config.features, same)
        self.left_out: list[str] = []
        if config.shared_with_test == "drop":
            self.targets, self.left_out = without_shared(self.targets)
        labelled = set(self.targets.clip_ids.tolist())
        # Analyses compare signs by the whole lexicon, also by features that are not probed.
        every = targets_from(self.manifest, phonology, table, None, same)
        self.lexicon = every.at(self.targets.clip_ids)
        self.clips = self.manifest.replace(clip for clip in self.manifest if clip.clip_id in labelled)
        seed = config.run.seed
        self.splits: dict[str, Split] = {
            name: SPLITS[name](self.targets, config.folds, config.held_out, seed) for name in config.splits
        }
        self.sources = find_encoders(config.encoders)
        if config.label_trained == "refuse":
            check_labels(self.sources)
        if "random-init" in config.controls:
            check_forms(self.sources)
        marks = [split.fingerprint(self.targets) for split in self.splits.values()]
        self.split_fingerprint = work_key(*marks)

    def steps(self) -> int:
        """Feature sets to make and probe."""
        architectures = {s.architecture for s in self.sources if not s.external}
        rows = len(self.sources)
        rows += self.config.random_inits * len(architectures) * ("random-init" in self.config.controls)
        return rows + sum(control in self.config.controls for control in ("pixel", "pose", "label-only"))

    def run(self, folder: Path, stop: StopSignal, progress: Progress, total: int) -> list[Result]:
        """Make what is missing in the run folder; see `run_probe`."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        def alive(*_: Any) -> None:
            if stop.received:
                raise Interrupted(f"probing stopped; the same command continues it in {folder}")

        for split in self.splits.values():
            save(split, self.targets, folder / "splits" / f"{split.name}.json")
        self.folder, self.alive = folder, alive
        self.extractor = Extractor(self.config, self.clips, self.world.device, folder / "features", alive)
        rows = []
        for source in self.sources:
            rows.append(self.encoder_row(source))
            step()
        if "random-init" in self.config.controls:
            rows += self.random_rows(step)
        if "pixel" in self.config.controls:
            rows.append(self.simple_row("pixels", "pixel", controls.pixel_view(), controls.PIXEL_RANK))
            step()
        if "pose" in self.config.controls:
            if any(clip.pose for clip in self.clips):
                rows.append(self.simple_row("pose statistics", "pose", controls.pose_view(), None))
            step()
        if "label-only" in self.config.controls:
            rows.append(self.label_row())
            step()
        everyone = self.provenance("", len(self.clips), "", [])
        for name, control, guess in GUESSES:
            if control in self.config.controls or (control == "majority" and not rows):
                outcomes = {n: [guess(self.targets, s, self.config.probes)] for n, s in self.splits.items()}
                rows.append(Row(name, control, everyone, outcomes))
        return self.finish(rows)

    def finish(self, rows: list[Row]) -> list[Result]:
        """Score the rows and write the records."""
        recorder = Recorder(self.targets, self.splits, self.config.draws, self.config.run.seed)
        for row in rows:
            self.alive()
            recorder.row(row)
        recorder.differences(rows)
        recorder.analyses(rows)
        about: dict[str, Any] = {"coverage": self.coverage, "shared_with_test_left_out": self.left_out}
        about["splits"] = {name: split.notes for name, split in self.splits.items()}
        write_atomic(self.folder / "details.json", json.dumps(about | {"fits": details(rows)}, indent=1) + "\n")
        by_source: dict[str, list[Result]] = {}
        for result in recorder.results:
            by_source.setdefault(result.provenance.model_dump_json(), []).append(result)
        *others, last = by_source.values()
        for number, results in enumerate(others):
            save_results(self.folder / f"result-{number:02d}-{slug(results[0].name)}.json", results)
        save_results(self.folder / RESULT, last)
        return _read_results(self.folder)

    # ---- rows

    def encoder_row(self, source: Source) -> Row:
        """An encoder's features, or somebody's, probed on every split."""
        if source.external:
            features, key = read_features(source.path), source.sha256
        else:
            features, key = self.extractor.encoded(source.load, source.sha256, source.facts["input_spec"])
        provenance = self.provenance(source.architecture, self.count(features), source.sha256, source.stages)
        against = "random init" if "random-init" in self.config.controls and not source.external else ""
        blocks = None if source.external else self.config.layers
        outcomes = self.outcomes(source.name, features, key, permuted=True)
        tokens = None
        if not source.external:
            tokens = partial(self.tokens, source.load, source.sha256, source.facts["input_spec"])
        found = self.findings(source.name, features, key, outcomes, blocks=blocks, tokens=tokens)
        return Row(source.name, "", provenance, outcomes, against, blocks, found)

    def random_rows(self, step: Callable[[], None]) -> list[Row]:
        """The same architectures with fresh weights, several seeds to a row."""
        rows = []
        specs = {s.architecture: s for s in reversed(self.sources) if not s.external}
        for architecture, source in specs.items():
            outcomes: dict[str, list[Outcome]] = {name: [] for name in self.splits}
            marks, present = [], 0
            findings: list[Sequence[Finding]] = []
            for seed in range(self.config.random_inits):
                fresh = partial(controls.random_encoder, architecture, source.arguments, seed)
                sha = controls.weights_sha256(fresh())
                features, key = self.extractor.encoded(fresh, sha, source.facts["input_spec"])
                marks.append(sha)
                present = self.count(features)
                name = f"random-{architecture}-{seed}"
                found = self.outcomes(name, features, key)
                for split, outcome in found.items():
                    outcomes[split] += outcome
                tokens = partial(self.tokens, fresh, sha, source.facts["input_spec"])
                findings += self.findings(name, features, key, found, blocks=self.config.layers, tokens=tokens)
                step()
            provenance = self.provenance(architecture, present, work_key(*marks), [])
            blocks, made = self.config.layers, tuple(findings)
            rows.append(Row("random init", "random-init", provenance, outcomes, blocks=blocks, findings=made))
        return rows

    def simple_row(self, name: str, control: str, view: View, max_rank: int | None) -> Row:
        """A control whose features come straight from a view."""
        features, key = self.extractor.viewed(control, view)
        provenance = self.provenance("", self.count(features), "", [])
        outcomes = self.outcomes(control, features, key, max_rank=max_rank)
        findings = self.findings(control, features, key, outcomes, max_rank=max_rank)
        return Row(name, control, provenance, outcomes, findings=findings)

    def label_row(self) -> Row:
        """What the labels of other bundles say about each bundle."""
        parts: dict[str, list[Outcome]] = {name: [] for name in self.splits}
        order: list[str] = []
        for name, members in self.targets.bundles.items():
            x = controls.other_labels(self.targets, members)
            vectors = Features(tuple(self.targets.clip_ids.tolist()), (x,))
            targets = self.targets.only(members)
            found = self.outcomes(f"label-only-{name}", vectors, targets.fingerprint(), targets=targets)
            for split, (outcome,) in found.items():
                parts[split].append(outcome)
            order += members
        places = [order.index(feature) for feature in self.targets.features]
        merged = {split: [Outcome.joined(outcomes, places)] for split, outcomes in parts.items()}
        return Row("label only", "label-only", self.provenance("", len(self.clips), "", []), merged)

    # ---- fits

    def count(self, features: Features) -> int:
        """Clips of the targets that have features."""
        return len(set(features.clip_ids) & set(self.targets.clip_ids.tolist()))

    def outcomes(
        self,
        name: str,
        features: Features,
        key: str,
        *,
        targets: Targets | None = None,
        max_rank: int | None = None,
        permuted: bool = False,
    ) -> dict[str, list[Outcome]]:
        """Fit and score on every split, or read what was fitted before; permuted labels for encoders only."""
        targets = targets or self.targets
        probes: FitConfig = self.config.probes
        if not permuted:
            probes = probes.model_copy(update={"permutations": 0})
        layers, present = features.aligned(targets.clip_ids)
        if not present.any():
            raise UserError(f"{name}: none of its clip ids is a labelled clip of {self.manifest.name}")
        result = {}
        for split_name, split in self.splits.items():
            path = self.folder / "predictions" / f"{slug(name)}.{split_name}.npz"
            parts = (key, split.fingerprint(targets), targets.fingerprint(), config_hash(probes))
            mark = work_key(*parts, str(max_rank), str(self.config.run.seed), PROTOCOL, name)
            outcome = Outcome.load(path, mark)
            if outcome is None:
                outcome = run_split(
                    layers,
                    present,
                    targets,
                    split,
                    probes,
                    seed=self.config.run.seed,
                    max_rank=max_rank,
                    device=str(self.world.device),
                    progress=self.alive,
                )
                outcome.save(path, mark)
            result[split_name] = [outcome]
        return result

    # ---- analyses

    def tokens(self, load: Callable[[], Encoder], sha: str, spec: str) -> Tokens:
        """Token features of an encoder at the targets' clips."""
        return self.extractor.tokens(load, sha, spec).aligned(self.targets.clip_ids)

    def findings(
        self, name: str, features: Features, key: str, outcomes: dict[str, list[Outcome]], **options: Any
    ) -> tuple[list[Finding], ...]:
        """What the analyses find in one feature set, none if the config asks for none; `options` as `Material`."""
        config = self.config
        if not config.analyses.run:
            return ()
        layers, present = features.aligned(self.targets.clip_ids)
        split = self.splits[ANALYSED]
        material = Material(
            layers,
            present,
            self.targets,
            self.lexicon.features,
            split,
            Board(self.targets, split, config.draws, config.run.seed),
            outcomes[ANALYSED][0],
            config.probes,
            config.analyses,
            seed=config.run.seed,
            device=str(self.world.device),
            alive=self.alive,
            **options,
        )
        parts = (key, split.fingerprint(self.targets), self.targets.fingerprint(), self.lexicon.fingerprint())
        settings = (str(options.get("max_rank")), str(config.run.seed), str(config.draws), PROTOCOL, name)
        mark = work_key(*parts, config_hash(config.probes), *settings)
        return (analyse(material, self.folder / "analyses", slug(name), mark),)

    # ---- provenance

    def provenance(self, encoder: str, present: int, sha: str, stages: list[dict[str, str]]) -> Provenance:
        """Where a row's numbers come from."""
        config = self.config
        return Provenance(
            protocol=PROTOCOL,
            manifest=self.manifest.name,
            split="+".join(self.splits),
            split_fingerprint=self.split_fingerprint,
            label_space=self.label_space,
            label_fingerprint=self.targets.fingerprint(),
            clips_present=present,
            clips_expected=len(self.clips),
            selection_set=f"{config.held_out:g} of the training sign groups, held out",
            views=f"1x1 {config.sampling.kind}",
            decoder=decoder_name(self.manifest, config.data.backend),
            encoder=encoder,
            pretraining=stages,
            seed=config.run.seed,
            config_hash=config_hash(config),
            checkpoint_hash=sha,
            commit=commit(),
            libraries=libraries(),
            device=device_name(self.world.device),
            wall_time_s=time.monotonic() - self.started,
        )
