"""The rows of the result tables: an encoder or a control, probed on every split and analysed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from islr.config import config_hash
from islr.data.packs.reader import decoder_name
from islr.data.views.views import View
from islr.environment import commit, libraries
from islr.errors import UserError
from islr.evaluation.results import Provenance
from islr.files import slug
from islr.models import Encoder
from islr.training.distributed.world import device_name
from probe import controls
from probe.analyses import AnalysisContext, analyse
from probe.config import UNSEEN_SIGN, ProbeConfig
from probe.data import ProbeData
from probe.features.encoders import EncoderSource
from probe.features.extractor import FeatureExtractor
from probe.features.features import Features
from probe.features.files import read_features
from probe.features.npz_cache import work_key
from probe.features.tokens import Tokens
from probe.findings import Finding
from probe.fitting import ProbePredictions, run_split
from probe.protocols import PROTOCOL
from probe.records import ResultRow
from probe.statistics.bootstrap import BootstrapDraws
from probe.targets import Targets

# Controls without features. They come last of all, so that their records are those in `result.json`.
GUESSES = {
    "sign-identity": ("sign identity", controls.sign_identity),
    "majority": ("majority", controls.majority),
}
MakeRow = Callable[[], ResultRow]


@dataclass(frozen=True)
class FeatureSet:
    """Features to probe.

    Attributes:
        name: Part of the file names and keys of everything made from them.
        features: The features.
        key: Hash of everything they depend on.
        max_rank: Principal directions kept at most; None = all.
        blocks: Block behind each layer; None = all blocks, in order.
        tokens: Computes the token features; None where there are none.
    """

    name: str
    features: Features
    key: str
    max_rank: int | None = None
    blocks: tuple[int, ...] | None = None
    tokens: Callable[[], Tokens] | None = None


class RowProber:
    """Makes the rows of one run, from the caches in its folder where they hold the results.

    Args:
        config: The run.
        data: Its clips, targets and splits.
        sources: The encoders to probe.
        folder: The run folder.
        device: Where encoders and probes run.
        check_stop: Called between batches and fits; raises to stop.
    """

    def __init__(
        self,
        config: ProbeConfig,
        data: ProbeData,
        sources: list[EncoderSource],
        folder: Path,
        device: torch.device,
        check_stop: Callable[..., None],
    ) -> None:
        self.config, self.data, self.sources, self.folder = config, data, sources, folder
        self.device, self.check_stop, self.started = device, check_stop, time.monotonic()
        self.extractor = FeatureExtractor(config, data.clips, device, folder / "features", check_stop)

    def planned(self) -> list[tuple[int, MakeRow]]:
        """Return every row with features or labels to fit: the number of feature sets it takes, and what makes it."""
        requested = self.config.controls
        plan: list[tuple[int, MakeRow]] = [(1, partial(self.encoder_row, source)) for source in self.sources]
        if "random-init" in requested:
            first = {source.label: source for source in reversed(self.sources) if not source.external}
            plan += [(self.config.random_inits, partial(self.random_row, source)) for source in first.values()]
        if "pixel" in requested and any(clip.has_video for clip in self.data.clips):
            view = controls.pixel_view()
            plan.append((1, partial(self.view_row, "pixels", "pixel", view, controls.PIXEL_RANK)))
        if "pose" in requested and any(clip.pose for clip in self.data.clips):
            plan.append((1, partial(self.view_row, "pose statistics", "pose", controls.pose_view(), None)))
        if "label-only" in requested:
            plan.append((1, self.label_row))
        return plan

    def encoder_row(self, source: EncoderSource) -> ResultRow:
        """Probe an encoder, or the features of a file."""
        if source.external:
            inputs = FeatureSet(source.name, read_features(source.path), source.sha256)
        else:
            inputs = self._encoded(source.name, source.load, source.sha256, source.facts["input_spec"])
        present = self.data.count(inputs.features.clip_ids)
        provenance = self.provenance(source.label, present, source.sha256, source.stages)
        floor = "random init" if "random-init" in self.config.controls and not source.external else ""
        predictions = self.predictions(inputs, permuted=True)
        findings = self.findings(inputs, predictions)
        return ResultRow(source.name, "", provenance, predictions, floor, inputs.blocks, findings)

    def random_row(self, source: EncoderSource) -> ResultRow:
        """Probe the form of an encoder (architecture and arguments) with random weights, several seeds to a row."""
        predictions: dict[str, list[ProbePredictions]] = {name: [] for name in self.data.splits}
        hashes, present = [], 0
        findings: tuple[list[Finding], ...] = ()
        for seed in range(self.config.random_inits):
            load = partial(controls.random_encoder, source.architecture, source.arguments, seed)
            hashes.append(controls.weights_sha256(load()))
            name = f"random-{source.label}-{seed}"
            inputs = self._encoded(name, load, hashes[-1], source.facts["input_spec"])
            present = self.data.count(inputs.features.clip_ids)
            of_seed = self.predictions(inputs)
            for split, parts in of_seed.items():
                predictions[split] += parts
            findings += self.findings(inputs, of_seed)
        provenance = self.provenance(source.label, present, work_key(*hashes), [])
        blocks = self.config.layers
        return ResultRow("random init", "random-init", provenance, predictions, blocks=blocks, findings=findings)

    def view_row(self, name: str, control: str, view: View, max_rank: int | None) -> ResultRow:
        """Probe a control whose features come straight from a view."""
        inputs = FeatureSet(control, *self.extractor.viewed(control, view), max_rank=max_rank)
        provenance = self.provenance("", self.data.count(inputs.features.clip_ids), "", [])
        predictions = self.predictions(inputs)
        return ResultRow(name, control, provenance, predictions, findings=self.findings(inputs, predictions))

    def label_row(self) -> ResultRow:
        """Predict each bundle from the labels of the other bundles."""
        targets = self.data.targets
        parts: dict[str, list[ProbePredictions]] = {name: [] for name in self.data.splits}
        order: list[str] = []
        for name, members in targets.bundles.items():
            vectors = Features(tuple(targets.clip_ids.tolist()), (controls.other_labels(targets, members),))
            bundle = targets.only(members)
            inputs = FeatureSet(f"label-only-{name}", vectors, bundle.fingerprint())
            for split, (predictions,) in self.predictions(inputs, targets=bundle).items():
                parts[split].append(predictions)
            order += members
        places = [order.index(feature) for feature in targets.features]
        merged = {split: [ProbePredictions.joined(of_bundles, places)] for split, of_bundles in parts.items()}
        return ResultRow("label only", "label-only", self.provenance("", len(self.data.clips), "", []), merged)

    def guess_rows(self, *, alone: bool) -> list[ResultRow]:
        """Score the controls without features; the majority class also where there is no other row (`alone`)."""
        provenance = self.provenance("", len(self.data.clips), "", [])
        targets, probes = self.data.targets, self.config.probes
        rows: list[ResultRow] = []
        for control, (name, guess) in GUESSES.items():
            if control in self.config.controls or (control == "majority" and alone and not rows):
                guesses = {key: [guess(targets, split, probes)] for key, split in self.data.splits.items()}
                rows.append(ResultRow(name, control, provenance, guesses))
        return rows

    def _encoded(self, name: str, load: Callable[[], Encoder], sha256: str, input_spec: str) -> FeatureSet:
        features, key = self.extractor.encoded(load, sha256, input_spec)

        def tokens() -> Tokens:
            return self.extractor.tokens(load, sha256, input_spec).aligned(self.data.targets.clip_ids)

        return FeatureSet(name, features, key, blocks=self.config.layers, tokens=tokens)

    def predictions(
        self, inputs: FeatureSet, *, targets: Targets | None = None, permuted: bool = False
    ) -> dict[str, list[ProbePredictions]]:
        """Fit and score probes on every split, or read their predictions from the cache.

        Args:
            inputs: The features.
            targets: The labels to predict; default: all of the run.
            permuted: Fit the permuted-label control too.

        Raises:
            UserError: No labelled clip has features.
        """
        targets = targets or self.data.targets
        probes, seed = self.config.probes, self.config.run.seed
        if not permuted:
            probes = probes.model_copy(update={"permutations": 0})
        layers, present = inputs.features.aligned(targets.clip_ids)
        if not present.any():
            raise UserError(f"{inputs.name}: none of its clip ids is a labelled clip of {self.data.manifest.name}")
        result = {}
        for split in self.data.splits.values():
            path = self.folder / "predictions" / f"{slug(inputs.name)}.{split.name}.npz"
            hashes = (inputs.key, split.fingerprint(targets), targets.fingerprint(), config_hash(probes))
            key = work_key(*hashes, str(inputs.max_rank), str(seed), PROTOCOL, inputs.name)
            predictions = ProbePredictions.load(path, key)
            if predictions is None:
                options = {"max_rank": inputs.max_rank, "device": str(self.device)}
                predictions = run_split(
                    layers, present, targets, split, probes, seed=seed, progress=self.check_stop, **options
                )
                predictions.save(path, key)
            result[split.name] = [predictions]
        return result

    def findings(self, inputs: FeatureSet, predictions: dict[str, list[ProbePredictions]]) -> tuple[list[Finding], ...]:
        """Run the configured analyses on one feature set; none, where the config names none."""
        config, targets = self.config, self.data.targets
        if not config.analyses.run:
            return ()
        layers, present = inputs.features.aligned(targets.clip_ids)
        split, seed = self.data.splits[UNSEEN_SIGN], config.run.seed
        context = AnalysisContext(
            layers,
            present,
            targets,
            self.data.lexicon.features,
            split,
            BootstrapDraws(targets, split, config.draws, seed),
            predictions[UNSEEN_SIGN][0],
            config.probes,
            config.analyses,
            seed=seed,
            max_rank=inputs.max_rank,
            device=str(self.device),
            blocks=inputs.blocks,
            tokens=inputs.tokens,
            check_stop=self.check_stop,
        )
        hashes = (inputs.key, split.fingerprint(targets), targets.fingerprint(), self.data.lexicon.fingerprint())
        settings = (str(inputs.max_rank), str(seed), str(config.draws), PROTOCOL, inputs.name)
        key = work_key(*hashes, config_hash(config.probes), *settings)
        return (analyse(context, self.folder / "analyses", slug(inputs.name), key),)

    def provenance(self, encoder: str, present: int, sha256: str, stages: list[dict[str, str]]) -> Provenance:
        """Return the provenance of a row's numbers."""
        config, data = self.config, self.data
        return Provenance(
            protocol=PROTOCOL,
            manifest=data.manifest.name,
            split="+".join(data.splits),
            split_fingerprint=data.split_fingerprint(),
            label_space=data.label_space,
            label_fingerprint=data.targets.fingerprint(),
            clips_present=present,
            clips_expected=len(data.clips),
            selection_set=f"{config.held_out:g} of the training sign groups, held out",
            views=f"1x1 {config.sampling.kind}",
            decoder=decoder_name(data.manifest, config.data.backend),
            encoder=encoder,
            pretraining=stages,
            seed=config.run.seed,
            config_hash=config_hash(config),
            checkpoint_hash=sha256,
            commit=commit(),
            libraries=libraries(),
            device=device_name(self.device),
            wall_time_s=time.monotonic() - self.started,
            poses=data.manifest.notes.get("poses_made_by", {}),
        )
