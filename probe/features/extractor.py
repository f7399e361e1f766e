"""The feature sets of a probing run: made once, kept in the run folder, found there by what they depend on."""

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
from probe.features.features import Features, cached, encode, gather
from probe.features.tokens import Tokens, cached_tokens, keep_tokens
from probe.fitting import work_key


class Extractor:
    """Features of a run's clips.

    Args:
        config: The run.
        clips: The labelled clips, present or not.
        device: Where encoders run.
        folder: Where features are kept.
        alive: Called between batches; raises to stop.
    """

    def __init__(
        self, config: ProbeConfig, clips: Manifest, device: torch.device, folder: Path, alive: Callable[..., None]
    ) -> None:
        self.config, self.clips, self.device, self.folder, self.alive = config, clips, device, folder, alive
        self._store: ClipStore | None = None
        present = [clip.clip_id for clip in clips if clip.status == "ok"]
        self._common = {
            "manifest": clips.fingerprint(),
            "sources": clips.sources,
            "clips": work_key(*present),
            "decoder": decoder_name(clips, config.data.backend),
            "short_side": config.data.short_side,
        }
        self._sampled = {"sampling": config.sampling.model_dump(), **self._common}

    @property
    def store(self) -> ClipStore:
        """The clips, opened (and decoded, if the config says so) when first needed."""
        if self._store is None:
            self._store = ClipStore(self.clips, self.config.data)
            self._store.fill_cache()
        return self._store

    def encoded(self, load: Callable[[], Encoder], sha: str, spec: str) -> tuple[Features, str]:
        """Features of an encoder and their key, from the cache where they are there.

        Args:
            load: Builds the encoder.
            sha: Hash of its weights.
            spec: Its input, as written beside the weights.

        Raises:
            UserError: The config asks for a block that it has not, or too many clips cannot be read.
        """
        facts: dict[str, Any] = {"weights": sha, "input": spec, "pool": self.config.pool, "layers": self.config.layers}

        def make() -> Features:
            encoder = load()
            batches = self._batches(eval_view(encoder.input_spec, self.config.sampling))
            made = encode(encoder, batches, self._ids(), pool=self.config.pool, device=self.device, progress=self.alive)
            return self._checked(self._some_layers(made))

        return cached(self.folder, facts | self._sampled, make)

    def viewed(self, control: str, view: View) -> tuple[Features, str]:
        """Features that come straight from a view, and their key.

        Raises:
            UserError: Too many clips cannot be read.
        """

        def make() -> Features:
            return self._checked(gather(lambda batch: [batch["clip"]], self._batches(view), self._ids(), self.alive))

        return cached(self.folder, {"control": control, **self._common}, make)

    def tokens(self, load: Callable[[], Encoder], sha: str, spec: str) -> Tokens:
        """Token features of an encoder for the attentive probe, from the cache where they are there."""
        wanted = self.config.analyses.attentive

        def make() -> Tokens:
            encoder = load()
            return keep_tokens(
                encoder,
                self._batches(eval_view(encoder.input_spec, self.config.sampling)),
                self._ids(),
                block=wanted.block,
                max_gigabytes=wanted.max_gigabytes,
                device=self.device,
                progress=self.alive,
            )

        facts: dict[str, Any] = {"weights": sha, "input": spec, "tokens": wanted.block}
        return cached_tokens(self.folder, facts | self._sampled, make)

    def _ids(self) -> list[str]:
        return [clip.clip_id for clip in self.store.manifest]

    def _batches(self, view: View) -> Any:
        return eval_batches(self.store, view, batch_size=self.config.batch_size)

    def _some_layers(self, features: Features) -> Features:
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
