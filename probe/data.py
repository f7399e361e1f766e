"""The clips, targets and splits of a probing run, fixed before any feature is computed."""

from dataclasses import dataclass
from typing import Any

from islr.data.audit.duplicates import same_content
from islr.data.loading.mixing import load_manifests
from islr.data.manifest import Manifest
from islr.data.phonology import join, read_asl_lex
from probe.config import ProbeConfig
from probe.features.npz_cache import work_key
from probe.splits import SPLITS, Split, without_shared
from probe.targets import Targets, targets_from


@dataclass(frozen=True)
class ProbeData:
    """What is probed.

    Attributes:
        manifest: All clips.
        clips: Those with at least one label, present or not.
        targets: Labels of the probed features.
        lexicon: Labels of all features of the lexicon for the same clips.
        splits: The splits, by name.
        label_space: Name of the lexicon.
        coverage: How many clips and glosses the lexicon covers.
        left_out: Training clips that are recordings of the test part, left out of the official split.
    """

    manifest: Manifest
    clips: Manifest
    targets: Targets
    lexicon: Targets
    splits: dict[str, Split]
    label_space: str
    coverage: dict[str, Any]
    left_out: list[str]

    @classmethod
    def load(cls, config: ProbeConfig) -> "ProbeData":
        """Read the manifest and the lexicon that a config names, and make its splits.

        Raises:
            UserError: They do not fit each other, or a split cannot be made.
        """
        manifest = load_manifests(config.data.manifest)
        table = read_asl_lex(config.lexicon, config.columns)
        phonology = join(manifest, table, by=config.join_by, policy=config.ambiguous)
        same = [[clip.clip_id for clip in clips] for clips in same_content(manifest)]
        targets = targets_from(manifest, phonology, table, config.features, same)
        left_out: list[str] = []
        if config.shared_with_test == "drop":
            targets, left_out = without_shared(targets)
        labelled = set(targets.clip_ids.tolist())
        return cls(
            manifest=manifest,
            clips=manifest.replace(clip for clip in manifest if clip.clip_id in labelled),
            targets=targets,
            # Analyses compare signs over the whole lexicon, including features that are not probed.
            lexicon=targets_from(manifest, phonology, table, None, same).at(targets.clip_ids),
            splits={
                name: SPLITS[name](targets, config.folds, config.held_out, config.run.seed) for name in config.splits
            },
            label_space=table.name,
            coverage=phonology.coverage,
            left_out=left_out,
        )

    def split_fingerprint(self) -> str:
        """Return one sha256 over the clip ids of every fold of every split."""
        return work_key(*[split.fingerprint(self.targets) for split in self.splits.values()])

    def count(self, clip_ids: tuple[str, ...]) -> int:
        """Return how many of the labelled clips are among `clip_ids`."""
        return len(set(clip_ids) & set(self.targets.clip_ids.tolist()))
