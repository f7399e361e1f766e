"""Packs: the same pictures as loose files, the same bytes however they were made, damage that is always named."""

import importlib.metadata
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pose_files import pose_of
from support.video_files import FPS, FRAMES, make_rotated, make_video, numbers_of

from islr.cli import run
from islr.data.audit.corpus import audit
from islr.data.audit.duplicates import check_disjoint, same_content
from islr.data.loading.batches import TrainBatches, eval_batches
from islr.data.loading.config import DataConfig
from islr.data.loading.mixing import load_manifests
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.data.packs.format import read_index
from islr.data.packs.reader import backend_version, clip_pose, decoder_name
from islr.data.packs.writer import PackOptions, pack_manifest
from islr.data.poses.pose import read_pose, write_pose
from islr.data.video.guard import DecodeError
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import AugmentConfig, eval_view, train_view
from islr.errors import UserError
from islr.evaluation.provenance import label_fingerprint
from islr.models import InputSpec

SPEC = InputSpec(4, 32, (0.45,) * 3, (0.225,) * 3, "video")
SMALL = PackOptions(short_side=48, shard_mb=1)
# JPEG 90 of the sharp, saturated squares of the test pictures; clips of people lose less (see the docstring of pack).
LEAST_PSNR = 30.0


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Decibels between uint8 pictures."""
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def corpus(folder: Path) -> Manifest:
    """Clips of many kinds: ranges of one file, upright and turned, boxed, posed, missing, broken."""
    folder.mkdir(parents=True)
    make_video(folder / "long.mp4", 60)
    make_video(folder / "other.mp4", 30, size=(200, 120), first=100)
    make_rotated(folder / "turned.mp4")
    write_pose(folder / "long.npz", replace(pose_of(60), fps=float(FPS)))
    clips = (
        Clip("whole", "long.mp4", label=0, gloss="a", split="train", fps=25.0, width=96, height=64, frames=60),
        Clip("part", "long.mp4", label=1, gloss="b", split="train", start=0.4, end=1.0, pose="long.npz", frames=15),
        Clip("gone", "gone.mp4", label=0, gloss="a", split="test", status="missing"),
        Clip("bad", "bad.mp4", label=0, gloss="a", split="val", status="corrupt:damaged"),
        Clip("boxed", "other.mp4", label=1, gloss="b", split="val", box=(20.0, 30.0, 100.0, 120.0)),
        Clip("turned", "turned.mp4", label=0, gloss="a", split="test"),
    )
    manifest = Manifest("mix", clips, folder, ("a", "b"), notes={"label_space": "original"})
    manifest.save(folder / "manifest.csv")
    return manifest


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def store_of(manifest: Manifest, **options: object) -> ClipStore:
    return ClipStore(manifest, DataConfig.model_validate({"manifest": "unused"} | options))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return corpus(tmp_path_factory.mktemp("pack") / "source")


@pytest.fixture(scope="module")
def packed(source: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("packed")
    pack_manifest(source, out, SMALL, workers=0)
    return Manifest.load(out)


def test_manifest_keeps_what_the_corpus_is(source: Manifest, packed: Manifest) -> None:
    for split in (None, "train", "val", "test"):
        assert packed.fingerprint(split) == source.fingerprint(split)
    assert packed.classes == source.classes
    assert label_fingerprint(packed) == label_fingerprint(source)
    assert packed.notes["label_space"] == "original"
    assert packed.notes["pack"]["source"]["fingerprint"] == source.fingerprint()
    rows = {clip.clip_id: clip for clip in packed}
    assert [clip.clip_id for clip in packed] == [clip.clip_id for clip in source]
    assert (rows["gone"].status, rows["bad"].status) == ("missing", "corrupt:damaged")
    assert (rows["whole"].frames, rows["whole"].width, rows["whole"].height) == (60, 72, 48)
    assert (rows["part"].frames, rows["part"].start, rows["part"].end) == (15, None, None)
    assert rows["part"].fps == pytest.approx(FPS)
    assert (rows["turned"].width, rows["turned"].height) == (72, 48)  # stored on its side, packed upright
    assert rows["boxed"].box == pytest.approx((8.0, 12.0, 40.0, 48.0))


def test_frames_are_those_of_the_files_up_to_the_codec(source: Manifest, packed: Manifest) -> None:
    loose, stored = store_of(source, short_side=48), store_of(packed)
    for row in range(len(stored)):
        expected, found = loose.source(row), stored.source(row)
        assert found.clip.clip_id == expected.clip.clip_id
        assert found.length == expected.length
        indices = np.array([found.length - 1, 0, 3, 3, 7])
        assert psnr(found.read(indices), expected.read(indices)) > LEAST_PSNR
    numbers = numbers_of(stored.source(1).read(np.arange(15)))
    assert numbers == list(range(10, 25))


def test_a_smaller_size_is_shrunk_and_a_larger_one_refused(source: Manifest, packed: Manifest) -> None:
    small = store_of(packed, short_side=32).source(0).read(np.arange(5))
    assert small.shape == (5, 32, 48, 3)
    assert psnr(small, store_of(source, short_side=32).source(0).read(np.arange(5))) > LEAST_PSNR
    with pytest.raises(UserError, match="short_side is 64 and mix was packed at 48"):
        store_of(packed, short_side=64)


def test_poses_are_exact_and_cut_to_the_range(source: Manifest, packed: Manifest) -> None:
    part = packed.clips[1]
    found, expected = clip_pose(packed, part), read_pose(source.root / "long.npz")
    assert np.array_equal(found.keypoints, expected.keypoints[10:25])
    assert np.array_equal(found.confidences, expected.confidences[10:25])
    assert (found.fps, found.width, found.height) == (expected.fps, expected.width, expected.height)
    assert packed.clips[0].pose == ""
    with pytest.raises(DecodeError, match="no pose"):
        store_of(packed).source(0).pose()


def test_training_and_evaluation_read_packs_in_workers(mini_corpus: Path, tmp_path: Path) -> None:
    source = Manifest.load(mini_corpus)
    packed = pack_manifest(source, tmp_path / "pack", PackOptions(short_side=64, quality=100), workers=0)
    view = train_view(SPEC, AugmentConfig(), PoseAugmentConfig())

    def clips(manifest: Manifest, workers: int) -> list[torch.Tensor]:
        batches = TrainBatches(store_of(manifest, workers=workers), view, batch_size=4, seed=1)
        return [part["clip"] for parts in batches.iterate(0, 3) for part in parts]

    alone = clips(packed, 0)
    assert all(torch.equal(*pair) for pair in zip(clips(packed, 2), alone, strict=True))
    loose = clips(source, 0)
    assert all(psnr(a.numpy(), b.numpy()) > LEAST_PSNR for a, b in zip(alone, loose, strict=True))
    seen = [row for batch in eval_batches(store_of(packed), eval_view(SPEC), batch_size=8) for row in batch["index"]]
    assert len(seen) == len(source)
    pose = InputSpec(8, 0, (), (), "pose")
    batch = next(eval_batches(store_of(packed), eval_view(pose), batch_size=4))
    assert batch["clip"].shape[0] == 4


def test_packs_and_files_mix_and_keep_their_names(source: Manifest, packed: Manifest, tmp_path: Path) -> None:
    other = Manifest("loose", source.clips, source.root, source.classes)
    other.save(tmp_path / "manifest.csv")
    mixed = load_manifests([str(packed.root), str(tmp_path)])
    store = store_of(mixed)
    assert [store.source(row).length for row in range(len(store))] == [60, 15, 30, 40] * 2
    name = decoder_name(mixed, "pyav")
    assert "packed at 48 px as jpeg 90" in name
    assert "; pyav" in name


def test_bytes_do_not_depend_on_workers(source: Manifest, packed: Manifest, tmp_path: Path) -> None:
    pack_manifest(source, tmp_path, SMALL, workers=3)  # `test_command` has one
    assert files_of(tmp_path) == files_of(packed.root)


def big_corpus(folder: Path, clips: int = 24) -> Manifest:
    """Enough bytes for several shards."""
    folder.mkdir()
    for number in range(4):
        make_video(folder / f"{number}.mp4", 40, size=(320, 240), first=40 * number)
    rows = [Clip(f"c{row}", f"{row % 4}.mp4", label=0, gloss="a", split="train") for row in range(clips)]
    rows[5] = replace(rows[5], path="bad.mp4")
    (folder / "bad.mp4").write_bytes(b"no video")
    manifest = Manifest("big", tuple(rows), folder, ("a",))
    manifest.save(folder / "manifest.csv")
    return manifest


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    manifest = big_corpus(tmp_path / "source")
    options = PackOptions(short_side=120, shard_mb=1, max_bad=0.05)
    whole = pack_manifest(manifest, tmp_path / "whole", options, workers=0)
    assert [clip.clip_id for clip in whole if clip.status != "ok"] == ["c5"]
    assert whole.clips[5].status == "corrupt:not a video"
    expected = files_of(tmp_path / "whole")
    assert sum(name.endswith(".pack") for name in expected) > 1
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "islr", "data", "pack", str(manifest.root / "manifest.csv"), str(out)]
    command += ["--short-side", "120", "--shard-mb", "1", "--max-bad", "0.05", "--workers", "1"]
    reached = 0
    for _ in range(2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        # Killed as soon as a few more clips are written, wherever that is.
        while process.poll() is None and sum(path.stat().st_size for path in out.glob("*.pack")) < reached + 300_000:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.csv").exists()
        assert sum(path.stat().st_size for path in out.glob("*.pack")) > reached
        reached = sum(path.stat().st_size for path in out.glob("*.pack"))
    calls: list[int] = []
    pack_manifest(manifest, out, options, workers=0, progress=lambda done, total: calls.append(done))
    assert calls[0] > 2  # what was written is not packed again
    assert files_of(out) == expected


def test_a_shard_cut_anywhere_is_completed(tmp_path: Path) -> None:
    manifest = big_corpus(tmp_path / "source", 6)
    options = PackOptions(short_side=120, shard_mb=4, max_bad=0.2)
    pack_manifest(manifest, tmp_path / "out", options, workers=0)
    expected = files_of(tmp_path / "out")
    shard = tmp_path / "out" / "clips-00000.pack"
    whole = shard.read_bytes()
    last = read_index(shard)["records"][-1]["offset"]
    for keep in (0, 8, 30_000, last + 7, len(whole) - 1):
        shard.write_bytes(whole[:keep] + b"left over")
        shard.with_suffix(".json").unlink()
        pack_manifest(manifest, tmp_path / "out", options, workers=0)
        assert files_of(tmp_path / "out") == expected, keep


def test_damage_is_typed_and_names_the_clip(source: Manifest, packed: Manifest, tmp_path: Path) -> None:
    pack_manifest(source, tmp_path, SMALL, workers=0)
    shard = tmp_path / "clips-00000.pack"
    good = shard.read_bytes()
    entry = read_index(shard)["records"][1]
    rows = list(Manifest.load(tmp_path).select())
    row = next(number for number, clip in enumerate(rows) if clip.clip_id == "part")
    pose_bytes = entry["facts"]["pose"]["bytes"]
    facts_at, frame_at = entry["offset"] + 30, entry["offset"] + (entry["length"] - pose_bytes) // 2
    pose_at = entry["offset"] + entry["length"] - pose_bytes // 2
    for at, what in ((entry["offset"], "no clip begins"), (facts_at, "description"), (frame_at, "checksum")):
        shard.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        manifest = Manifest.load(tmp_path)
        with pytest.raises(DecodeError, match=what) as caught:
            store_of(manifest).source(row).read(np.arange(15))
        assert caught.value.kind == "damaged"
        assert "part" in str(caught.value)
        assert len(store_of(manifest).source(0).read(np.arange(3))) == 3  # its neighbour is whole
    shard.write_bytes(good[:pose_at] + bytes([good[pose_at] ^ 1]) + good[pose_at + 1 :])
    with pytest.raises(DecodeError, match="pose fails its checksum"):
        store_of(Manifest.load(tmp_path)).source(row).pose()
    shard.write_bytes(good[:frame_at])
    with pytest.raises(DecodeError) as caught:
        store_of(Manifest.load(tmp_path)).source(row).read(np.arange(15))
    assert caught.value.kind == "truncated"
    shard.write_bytes(good[:frame_at] + bytes([good[frame_at] ^ 1]) + good[frame_at + 1 :])
    pack_manifest(source, tmp_path, SMALL, workers=0, check=True)
    assert shard.read_bytes() == good
    shard.unlink()
    with pytest.raises(DecodeError) as caught:
        store_of(Manifest.load(tmp_path)).source(row).read(np.arange(15))
    assert caught.value.kind == "missing"


def test_a_manifest_that_points_at_another_clip_is_found_out(packed: Manifest) -> None:
    first, second = packed.clips[0], packed.clips[1]
    crossed = packed.replace([replace(first, path=second.path)])
    with pytest.raises(DecodeError, match="clip part lies there, not whole"):
        store_of(crossed).source(0).read(np.arange(2))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_few_shards_stay_open_and_copies_open_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    make_video(folder / "a.mp4", 4)
    rows = [Clip(f"c{row}", "a.mp4") for row in range(40)]
    pack = tmp_path / "pack"
    whole = pack_manifest(Manifest("many", tuple(rows), folder), pack, PackOptions(short_side=32), workers=0)
    shard = (pack / "clips-00000.pack").read_bytes()
    clips = []
    for number, clip in enumerate(whole):  # as many shards as clips
        (pack / f"clips-{number:05d}.pack").write_bytes(shard)
        clips.append(replace(clip, path=clip.path.replace("00000", f"{number:05d}")))
    store = store_of(whole.replace(clips))
    before = len(os.listdir("/proc/self/fd"))
    for row in range(40):
        assert len(store.source(row).read(np.arange(2))) == 2
    assert len(os.listdir("/proc/self/fd")) - before <= 32
    copy = pickle.loads(pickle.dumps(store))
    del store
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(copy.source(39).read(np.arange(2))) == 2


def test_audit_sees_through_the_pack(source: Manifest, packed: Manifest) -> None:
    assert [[clip.clip_id for clip in group] for group in same_content(packed)] == [["whole", "part"]]
    with pytest.raises(UserError, match="share 1 clips"):
        check_disjoint(packed.select("train").replace([packed.clips[1]]), source.replace([source.clips[0]]))
    row = audit(packed)["poses"]
    assert (row["with_pose"], row["other_length_than_video"], row["unreadable"]) == (1, 0, [])


def test_what_cannot_be_packed_is_said(source: Manifest, packed: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a pack"):
        pack_manifest(packed, tmp_path / "again", SMALL)
    out = tmp_path / "out"
    pack_manifest(source, out, SMALL, workers=0)
    with pytest.raises(UserError, match=r"another quality \(90, not 80\)"):
        pack_manifest(source, out, replace(SMALL, quality=80), workers=0)
    with pytest.raises(UserError, match="another source"):
        pack_manifest(source.replace(source.clips[:1]), out, SMALL, workers=0)
    (out / "pack.json").unlink()
    with pytest.raises(UserError, match=r"shards without pack\.json"):
        pack_manifest(source, out, SMALL, workers=0)
    with pytest.raises(UserError, match="not whole"):
        store_of(Manifest.load(out))
    lost = source.replace([replace(source.clips[0], path="lost.mp4")])
    with pytest.raises(UserError, match="is its disk mounted"):
        pack_manifest(lost, tmp_path / "lost", SMALL, workers=0)
    (source.root / "broken.mp4").write_bytes(b"text")
    broken = source.replace([replace(source.clips[0], path="broken.mp4")])
    with pytest.raises(UserError, match="1 of 1 clips cannot be decoded"):
        pack_manifest(broken, tmp_path / "broken", SMALL, workers=0)


def test_command(source: Manifest, packed: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "pack", str(source.root / "manifest.csv"), str(tmp_path), "--workers", "1"]
    assert run([*arguments, "--short-side", "48", "--shard-mb", "1"]) == 0
    assert "4 of 6 clips" in capsys.readouterr().out
    assert files_of(tmp_path) == files_of(packed.root)
    assert run([*arguments, "--short-side", "64"]) == 2
    index = json.loads((tmp_path / "clips-00000.json").read_text())
    assert [record["facts"]["id"] for record in index["records"]] == ["whole", "part", "boxed", "turned"]
    assert index["records"][3]["frames"] == FRAMES


def test_the_decoder_is_named_by_whichever_distribution_provides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "decord2":
            raise importlib.metadata.PackageNotFoundError
        return "3.4.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert [backend_version("decord"), backend_version("torchcodec")] == ["3.4.0", ""]


def test_speed_table_reads_the_same_frames_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord")
    make_video(tmp_path / "a.mp4", 20)
    make_video(tmp_path / "b.mp4", 20, size=(200, 120))
    assert run(["perf", "decode", "--videos", str(tmp_path), "--short-side", "48"]) == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["96x64"][1] == lines["200x120"][1] == "1"
    assert lines["PSNR, dB"][3:] == ["equal"] * 3
    assert float(lines["PSNR, dB"][2]) > LEAST_PSNR
    rates = [float(rate) for rate in lines["clips/s"][1:]]
    ratios = [float(ratio.rstrip("x")) for ratio in lines["pack is faster"][3:]]
    assert ratios == pytest.approx([rates[0] / rate for rate in rates], abs=0.06)


@pytest.mark.real
def test_real_clips_lose_little(shared: Path, tmp_path: Path) -> None:
    videos = sorted((shared / "data" / "wlasl_originals").glob("*.mp4"), key=lambda path: path.stat().st_size)[:4]
    source = Manifest("real", tuple(Clip(path.stem, path.name) for path in videos), videos[0].parent)
    packed = pack_manifest(source, tmp_path, PackOptions(short_side=128), workers=0)
    for row in range(4):
        loose = store_of(source, short_side=128).source(row)
        assert loose.length == packed.clips[row].frames
        indices = np.arange(loose.length)
        assert psnr(store_of(packed).source(row).read(indices), loose.read(indices)) > 36
