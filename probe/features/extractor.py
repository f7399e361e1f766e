"""The features of a probing run, computed once and cached in its folder under a key of everything they depend on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from islr.data.loading.batches import eval_batches
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.packs.reader import decoder_name
from islr.data.views.views import View, eval_view
from islr.errors import UserError
from islr.models import Encoder
from probe.config import ProbeConfig
from probe.features.features import Features, encode, gather
from probe.features.files import cached
from probe.features.npz_cache import work_key
from probe.features.tokens import Tokens, cached_tokens, encode_tokens


class FeatureExtractor:
    """Computes the features of a run's clips, or reads them from its cache.

    Args:
        config: The run.
        clips: The labelled clips, present or not.
        device: Where encoders run.
        folder: The cache.
        check_stop: Called between batches; raises to stop.
    """

    def __init__(
        self, config: ProbeConfig, clips: Manifest, device: torch.device, folder: Path, check_stop: Callable[..., None]
    ) -> None:
        self.config, self.clips, self.device, self.folder, self.check_stop = config, clips, device, folder, check_stop
        self._store: ClipStore | None = None
        present = [clip.clip_id for clip in clips if clip.status == "ok"]
        self._common = {
            "manifest": clips.fingerprint(),
            "sources": clips.sources,
            "clips": work_key(*present),
            "decoder": decoder_name(clips, config.data.backend),
            "short_side": config.data.short_side,
        }
        if made_by := clips.notes.get("poses_made_by"):
            self._common["poses"] = made_by
        self._sampled = {"sampling": config.sampling.model_dump(), **self._common}

    @property
    def store(self) -> ClipStore:
        """The clips, opened when first needed, and decoded then if the config says so."""
        if self._store is None:
            self._store = ClipStore(self.clips, self.config.data)
            self._store.fill_cache()
        return self._store

    def encoded(self, load: Callable[[], Encoder], sha256: str, input_spec: str) -> tuple[Features, str]:
        """Return the features of an encoder and their key.

        Args:
            load: Builds the encoder.
            sha256: Hash of its weights.
            input_spec: Its input, as written beside the weights.

        Raises:
            UserError: The config names a block that the encoder lacks, or too many clips cannot be read.
        """
        facts: dict[str, Any] = {
            "weights": sha256,
            "input": input_spec,
            "pool": self.config.pool,
            "layers": self.config.layers,
        }

        def make() -> Features:
            encoder = load()
            batches = self._batches(eval_view(encoder.input_spec, self.config.sampling))
            pool, ids = self.config.pool, self._ids()
            features = encode(encoder, batches, ids, pool=pool, device=self.device, progress=self.check_stop)
            return self._checked(self._configured_layers(features))

        return cached(self.folder, facts | self._sampled, make)

    def viewed(self, control: str, view: View) -> tuple[Features, str]:
        """Return features that come straight from a view, and their key.

        Raises:
            UserError: Too many clips cannot be read.
        """

        def make() -> Features:
            return self._checked(
                gather(lambda batch: [batch["clip"]], self._batches(view), self._ids(), self.check_stop)
            )

        return cached(self.folder, {"control": control, **self._common}, make)

    def tokens(self, load: Callable[[], Encoder], sha256: str, input_spec: str) -> Tokens:
        """Return the token features of an encoder for the attentive probe."""
        attentive = self.config.analyses.attentive

        def make() -> Tokens:
            encoder = load()
            return encode_tokens(
                encoder,
                self._batches(eval_view(encoder.input_spec, self.config.sampling)),
                self._ids(),
                block=attentive.block,
                max_gigabytes=attentive.max_gigabytes,
                device=self.device,
                progress=self.check_stop,
            )

        facts: dict[str, Any] = {"weights": sha256, "input": input_spec, "tokens": attentive.block}
        return cached_tokens(self.folder, facts | self._sampled, make)

    def _ids(self) -> list[str]:
        return [clip.clip_id for clip in self.store.manifest]

    def _batches(self, view: View) -> Any:
        return eval_batches(self.store, view, batch_size=self.config.batch_size)

    def _configured_layers(self, features: Features) -> Features:
        if self.config.layers is None:
            return features
        last = len(features.layers) - 1
        for layer in self.config.layers:
            if not 0 <= layer <= last:
                raise UserError(f"layers: there is no block {layer}; the encoder's blocks are 0..{last}")
        chosen = tuple(features.layers[layer] for layer in self.config.layers)
        return Features(features.clip_ids, chosen, features.failed)

    def _checked(self, features: Features) -> Features:
        total = len(features.clip_ids) + len(features.failed)
        if len(features.failed) > self.config.data.max_bad * total:
            clip, reason = next(iter(features.failed.items()))
            raise UserError(
                f"{len(features.failed)} of {total} clips could not be read ({clip}: {reason}, ...),"
                f" more than data.max_bad={self.config.data.max_bad}; audit the manifest"
            )
        return features
