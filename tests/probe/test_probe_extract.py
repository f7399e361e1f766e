"""Frozen features: what is pooled, what is cached, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from islr.config import validate
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.evaluation.results import Result
from islr.models import create_model, to_input
from islr.models.weights import export_encoder
from probe import controls
from probe.config import ProbeConfig
from probe.features.encoders import EncoderSource, mark_forms, refuse_label_trained
from probe.features.features import Features, encode
from probe.features.files import cache_key, cached, is_features_file, read_features
from probe.rows import RowProber
from probe.run import run_probe

SMALL = {"frames": 4, "size": 32}


def clips(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)


def batches(video: torch.Tensor, size: int, failed: tuple[int, ...] = ()) -> Iterator[dict[str, Any]]:
    rows = [row for row in range(len(video)) if row not in failed]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        broken = [(row, "corrupt") for row in failed] if start == 0 else []
        yield {"clip": video[part], "index": torch.tensor(part), "failed": broken}


def test_features_are_token_means_of_every_block_in_eval_mode() -> None:
    encoder = create_model("mvit_tiny", **SMALL).train()
    video = clips(3)
    features = encode(encoder, batches(video, 2), ["a", "b", "c"])
    assert encoder.training, "the encoder's mode is given back"
    encoder.eval()
    with torch.no_grad():
        expected = encoder.forward_layers(to_input(video, encoder.input_spec))
    assert features.clip_ids == ("a", "b", "c")
    assert [layer.shape[1] for layer in features.layers] == list(encoder.layer_dims)
    for layer, tokens in zip(features.layers, expected, strict=True):
        assert layer.dtype == np.float32
        np.testing.assert_allclose(layer, tokens.mean(1), atol=1e-5)


def test_pools_differ_and_batches_do_not_matter() -> None:
    encoder = create_model("mvit_tiny", **SMALL)
    video = clips(5)
    ids = list("abcde")
    whole = encode(encoder, batches(video, 5), ids, pool="mean_std").layers[0]
    single = encode(encoder, batches(video, 1), ids, pool="mean_std").layers[0]
    np.testing.assert_allclose(whole, single, atol=1e-5)
    mean = encode(encoder, batches(video, 5), ids).layers[0]
    np.testing.assert_allclose(whole[:, : mean.shape[1]], mean, atol=1e-6)
    assert (encode(encoder, batches(video, 5), ids, pool="max").layers[0] >= mean).all()


def test_unreadable_clips_are_listed_and_not_replaced() -> None:
    encoder = create_model("mvit_tiny", **SMALL)
    features = encode(encoder, batches(clips(4), 2, failed=(1,)), list("abcd"))
    assert features.clip_ids == ("a", "c", "d")
    assert features.failed == {"b": "corrupt"}
    layers, present = features.aligned(np.array(["d", "b", "a"]))
    assert present.tolist() == [True, False, True]
    np.testing.assert_array_equal(layers[0][0], features.layers[0][2])
    assert (layers[0][1] == 0).all()


def test_no_readable_clip_and_broken_weights_are_errors() -> None:
    encoder = create_model("mvit_tiny", **SMALL)
    nothing = [{"index": torch.empty(0, dtype=torch.int64), "failed": [(0, "corrupt")]}]
    with pytest.raises(UserError, match="none of the clips could be read"):
        encode(encoder, nothing, ["a"])
    with torch.no_grad():
        next(encoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="clip a: layer 0 gives features that are not finite"):
        encode(encoder, batches(clips(1), 1), ["a"])


def test_cache_is_read_back_and_keyed_by_every_fact(tmp_path: Path) -> None:
    calls = []

    def make() -> Features:
        calls.append(1)
        return Features(("a", "b"), (np.eye(2, dtype=np.float32),), {"c": "corrupt"})

    facts = {"weights": "x", "pool": "mean"}
    first, key = cached(tmp_path, facts, make)
    again, same = cached(tmp_path, facts, make)
    assert len(calls) == 1
    assert key == same == cache_key({"pool": "mean", "weights": "x"})
    assert again.clip_ids == first.clip_ids
    assert again.failed == {"c": "corrupt"}
    np.testing.assert_array_equal(again.layers[0], first.layers[0])
    assert cached(tmp_path, facts | {"weights": "y"}, make)[1] != key
    assert len(calls) == 2


def test_files_of_others_are_read(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.savez(tmp_path / "a.npz", clip_ids=np.array(["p", "q"]), features=x)
    save_file({"layer.0": x, "layer.1": x + 1}, tmp_path / "b.safetensors", metadata={"clip_ids": '["p", "q"]'})
    for name, count in (("a.npz", 1), ("b.safetensors", 2)):
        assert is_features_file(tmp_path / name)
        features = read_features(tmp_path / name)
        assert features.clip_ids == ("p", "q")
        assert len(features.layers) == count
        np.testing.assert_array_equal(features.layers[0], x)
    export_encoder(create_model("mvit_tiny", **SMALL), tmp_path / "c.safetensors", {})
    assert not is_features_file(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((2, 3))}, "features need 'clip_ids'"),
        ({"clip_ids": np.array(["a"]), "features": np.zeros((2, 3))}, r"\[2, 3\], not \[1 clips"),
        ({"clip_ids": np.array(["a", "a"]), "features": np.zeros((2, 3))}, "occurs twice"),
        ({"clip_ids": np.array(["a"]), "features": np.full((1, 3), np.nan)}, "not finite"),
        ({"clip_ids": np.array(["a"]), "vectors": np.zeros((1, 3))}, "name arrays layer.0"),
        (
            {"clip_ids": np.array(["a"], dtype=object), "features": np.zeros((1, 3))},
            "cannot be read as features",
        ),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        read_features(tmp_path / "x.npz")


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    for name in ("x.npz", "x.safetensors", "x.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not a file")
        with pytest.raises(UserError, match=name):
            read_features(tmp_path / name)


def test_random_encoders_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = controls.weights_sha256(controls.random_encoder("mvit_tiny", SMALL, 0))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after, "the global generator is left alone"
    assert controls.weights_sha256(controls.random_encoder("mvit_tiny", SMALL, 0)) == first
    assert controls.weights_sha256(controls.random_encoder("mvit_tiny", SMALL, 1)) != first


def test_baseline_views_describe_the_clip(mini_corpus: Path) -> None:
    store = ClipStore(Manifest.load(mini_corpus), DataConfig(manifest=(str(mini_corpus),)))
    source = store.source(0)
    rng = np.random.default_rng(0)
    pixels = controls.pixel_view()(source, rng)["clip"]
    assert pixels.shape == (2048,)
    whole = source.read(np.arange(source.length)).mean() / 255
    assert pixels[:1024].mean() == pytest.approx(whole, abs=0.02)
    assert pixels[1024:].max() > 0.01, "something moves"
    pose = controls.pose_view()(source, rng)["clip"].reshape(75, 10)
    mean, deviation, low, high = pose[:, :2], pose[:, 2:4], pose[:, 4:6], pose[:, 6:8]
    seen = pose[:, 9] > 0
    assert seen.any()
    assert (low[seen] <= mean[seen] + 1e-5).all()
    assert (mean[seen] <= high[seen] + 1e-5).all()
    assert (deviation >= 0).all()
    assert (pose[:, 8] >= 0).all()
    assert (pose[~seen] == 0).all()


def test_encoders_of_both_modalities_end_to_end(mini_corpus: Path, tmp_path: Path) -> None:
    for name, architecture, arguments in (
        ("video", "mvit_tiny", SMALL),
        ("pose", "pose_transformer_tiny", {"frames": 16}),
    ):
        torch.manual_seed(0)
        (tmp_path / name).mkdir()
        export_encoder(create_model(architecture, **arguments), tmp_path / name / "encoder.safetensors", {"name": name})
    config = validate(
        ProbeConfig,
        {
            "encoders": [str(tmp_path / "video"), str(tmp_path / "pose")],
            "data": {"manifest": str(mini_corpus / "manifest.csv")},
            "lexicon": str(mini_corpus / "lexicon.csv"),
            "features": ["Handshape", "SignType", "MajorLocation"],
            "folds": 2,
            "layers": [1, 3],
            "random_inits": 1,
            "probes": {
                "inverse_penalties": [0.1],
                "min_train_signs": 1,
                "min_test_signs": 1,
                "permutations": 1,
            },
            "draws": 100,
            "run": {"out": str(tmp_path / "run")},
        },
        "test",
    )
    results = run_probe(config, lambda done, total: None)
    rows = {(r.name, r.group["control"], r.provenance.encoder) for r in results}
    assert {
        ("video", "", "mvit_tiny"),
        ("video", "permuted", "mvit_tiny"),
        ("pose", "", "pose_transformer_tiny"),
        ("random init", "random-init", "mvit_tiny"),
        ("random init", "random-init", "pose_transformer_tiny"),
        ("pixels", "pixel", ""),
        ("pose statistics", "pose", ""),
        ("label only", "label-only", ""),
        ("majority", "majority", ""),
    } <= rows
    assert any(r.metric == "balanced_accuracy_difference" and r.name == "video" for r in results)
    assert {r.group["layer"] for r in results if r.name == "video"} == {"chosen", "1", "3"}
    assert all(0 <= r.value <= 1 for r in results if r.metric == "balanced_accuracy")
    stored = list((tmp_path / "run" / "features").iterdir())
    assert len(stored) == 6
    _check_reuse(config, results, stored, tmp_path / "run")


def _check_reuse(config: ProbeConfig, results: list[Result], stored: list[Path], folder: Path) -> None:
    """Without its predictions a run makes them again from the stored features, to the same numbers."""
    times = {path: path.stat().st_mtime_ns for path in stored}
    for path in [*folder.glob("result*.json"), *(folder / "predictions").iterdir()]:
        path.unlink()
    again = run_probe(config, lambda done, total: None)
    assert [(r.name, r.metric, r.group, r.value) for r in again] == [
        (r.name, r.metric, r.group, r.value) for r in results
    ]
    assert times == {path: path.stat().st_mtime_ns for path in stored}


def test_the_number_of_workers_changes_nothing(mini_corpus: Path, tmp_path: Path) -> None:
    tables = []
    for workers in (0, 2):
        config = {
            "data": {"manifest": str(mini_corpus / "manifest.csv"), "workers": workers},
            "lexicon": str(mini_corpus / "lexicon.csv"),
            "features": ["SignType"],
            "splits": ["seen_sign"],
            "probes": {"inverse_penalties": [0.1], "min_train_signs": 1, "min_test_signs": 1, "permutations": 0},
            "controls": ["pixel"],
            "draws": 100,
            "run": {"out": str(tmp_path / str(workers))},
        }
        results = run_probe(validate(ProbeConfig, config, "test"), lambda done, total: None)
        tables.append([(r.metric, r.group, r.value, r.ci_low, r.ci_high) for r in results])
    assert tables[0]
    assert tables[0] == tables[1]


def test_encoders_that_saw_sign_labels_are_refused_when_asked() -> None:
    def source(name: str, **facts: str) -> EncoderSource:
        return EncoderSource(name, Path(name), "", {"architecture": "mvit_tiny", "arguments": "{}", **facts})

    free = source("free", pretraining=json.dumps([{"recipe": "maskfeat"}, {"recipe": "mine", "needs_labels": "no"}]))
    tuned = source("tuned", classes='["a", "b"]')
    taught = source(
        "taught", pretraining=json.dumps([{"recipe": "mine", "needs_labels": "yes"}, {"recipe": "maskfeat"}])
    )
    older = source("older", pretraining=json.dumps([{"recipe": "supervised"}]))
    refuse_label_trained([free, EncoderSource("external", Path("x.npz"), "", {})])
    with pytest.raises(UserError, match=r"^tuned, taught, older: trained with sign labels"):
        refuse_label_trained([free, tuned, taught, older])
    assert [stage["recipe"] for stage in tuned.stages] == ["fine-tuning"]


def test_two_forms_of_an_architecture_have_a_random_row_each(tmp_path: Path) -> None:
    def source(name: str, **changed: Any) -> EncoderSource:
        arguments = {"frames": 8, "last_stride": 1, "drop_path": 0.0} | changed
        return EncoderSource(name, Path(name), "", {"architecture": "mvit_tiny", "arguments": json.dumps(arguments)})

    def labels(*sources: EncoderSource) -> list[str]:
        return [one.label for one in mark_forms(sources)]

    assert labels(source("a"), source("b", drop_path=0.1)) == ["mvit_tiny", "mvit_tiny"]
    assert labels(source("a", input="rgb+change"), source("b")) == ["mvit_tiny, rgb+change", "mvit_tiny"]
    found = mark_forms([source("a"), source("b", last_stride=2), source("c"), source("d", widen_in="attention")])
    assert [one.label.removeprefix("mvit_tiny, ") for one in found] == [
        "last_stride=1",
        "last_stride=2",
        "last_stride=1",
        "widen_in=attention, last_stride=1",
    ]
    clips = Manifest("clips", (Clip("c", "x"),), tmp_path)
    config = {
        "data": {"manifest": "x"},
        "lexicon": "x",
        "run": {"out": "x"},
        "controls": "random-init",
        "random_inits": 2,
    }
    run = validate(ProbeConfig, config, "test")
    prober = RowProber(run, SimpleNamespace(clips=clips), found, tmp_path, torch.device("cpu"), lambda: None)  # type: ignore[arg-type]
    assert [weight for weight, _ in prober.planned()] == [1, 1, 1, 1, 2, 2, 2]
