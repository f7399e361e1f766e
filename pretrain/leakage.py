"""Leakage check: pre-training sees chosen splits of its manifests, and no clip that its encoder is evaluated on."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from islr.data.audit.duplicates import shared_clips, with_own_ids
from islr.data.loading.mixing import join_manifests
from islr.data.manifest import Manifest
from islr.errors import UserError

JUDGED = ("val", "test")  # splits of a downstream corpus that choose or score models
_MOST_NAMED = 5


class Exposure(NamedTuple):
    """The corpora of a pre-training run, each loaded once.

    Attributes:
        sources: Corpora that the encoder is trained on.
        splits: Splits of them that it is trained on.
        downstream: Corpora that it will be evaluated on.
    """

    sources: tuple[Manifest, ...]
    splits: tuple[str, ...]
    downstream: tuple[Manifest, ...]

    @classmethod
    def load(cls, sources: Sequence[str], splits: Sequence[str], downstream: Sequence[str] = ()) -> "Exposure":
        """Load the manifests at the given paths.

        Raises:
            UserError: A manifest cannot be read.
        """
        loaded = {path: Manifest.load(path) for path in dict.fromkeys((*sources, *downstream))}
        return cls(tuple(map(loaded.__getitem__, sources)), tuple(splits), tuple(map(loaded.__getitem__, downstream)))

    def training_clips(self) -> Manifest:
        """Return the clips of the chosen splits of all sources.

        Raises:
            UserError: None of them is readable, or the sources cannot be joined.
        """
        whole = join_manifests(self.sources)
        manifest = whole.replace(clip for clip in whole if clip.split in self.splits)
        if not len(manifest.select()):
            raise UserError(f"manifest {whole.name}: no readable clip in splits {', '.join(self.splits)}")
        return manifest

    def monitored(self) -> Manifest:
        """Return the corpus whose features are monitored: the first downstream one, else the sources."""
        return self.downstream[0] if self.downstream else join_manifests(self.sources)

    def check(self) -> None:
        """Refuse to pre-train on clips that a downstream corpus chooses or scores models with.

        A clip is the same when its file and time range are, or when it has the same id in a manifest of the same name.

        Raises:
            UserError: Names the first such clips.
        """
        for source, judge, pairs in self._shared():
            named = ", ".join(theirs for _, theirs in pairs[:_MOST_NAMED])
            more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
            raise UserError(
                f"{len(pairs)} val or test clips of {judge} are among the clips of {source} that pre-training would "
                f"see ({named}{more}); leave them out with shared_with_downstream=drop, or declare it with "
                "transductive=true"
            )

    def without_judged(self, manifest: Manifest) -> tuple[Manifest, list[str]]:
        """Return `training_clips` without those that `check` would refuse, and the ids of the latter.

        Raises:
            UserError: Nothing readable is left.
        """
        dropped = {
            f"{source}/{mine}" if len(self.sources) > 1 else mine  # as `join_manifests` names clips
            for source, _, pairs in self._shared()
            for mine, _ in pairs
        }
        kept = manifest.replace(clip for clip in manifest if clip.clip_id not in dropped)
        if not len(kept.select()):
            name = manifest.name
            raise UserError(f"manifest {name}: every readable clip is a val or test clip of a downstream corpus")
        return kept, sorted(dropped)

    def corpora(self, manifest: Manifest) -> list[Manifest]:
        """Return the corpora of a run, each with the clips of `manifest`: what `without_judged` left of it."""
        if len(self.sources) == 1:
            return [manifest]
        kept = {clip.clip_id for clip in manifest}
        return [part.replace(clip for clip in part if f"{part.name}/{clip.clip_id}" in kept) for part in self.sources]

    def _shared(self) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
        """Yield (source name, downstream name, pairs of their ids of one clip) where there are such pairs."""
        for judge in self.downstream:
            judged = judge.replace(clip for clip in judge if clip.split in JUDGED)
            for source in self.sources:
                seen = source.replace(clip for clip in source if clip.split in self.splits)
                prefix = ""
                if source.name != judge.name:
                    seen, prefix = with_own_ids(seen), f"{source.name}/"
                pairs = [(mine.removeprefix(prefix), theirs) for mine, theirs in shared_clips(seen, judged)]
                if pairs:
                    yield source.name, judge.name, pairs
