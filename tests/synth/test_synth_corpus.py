"""The embedded corpus on disk: its files agree, runs continue, wrong options are refused."""

import dataclasses
import json
from pathlib import Path

import av
import pytest
from support.undrawn import undrawn

from islr.data.manifest import Manifest
from islr.data.poses.pose import read_pose
from islr.errors import UserError
from islr.synth import SynthOptions, built_in_lexicon, read_lexicon, write_corpus

SMALL = SynthOptions(signs=3, signers=4, reps=1, size=64, val_signers=1, test_signers=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    calls: list[tuple[int, int]] = []
    write_corpus(folder, SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 12) for done in range(1, 13)]
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_corpus_files_agree_with_each_other(corpus: Path) -> None:
    manifest = Manifest.load(corpus)
    assert len(manifest) == 12
    index = json.loads((corpus / "wlasl.json").read_text())
    lexicon = read_lexicon(corpus / "lexicon.csv")
    assert lexicon == built_in_lexicon(3)
    assert [entry["gloss"] for entry in index] == [sign.entry_id for sign in lexicon] == list(manifest.classes)
    instances = {item["video_id"]: item for entry in index for item in entry["instances"]}
    signers: dict[str, set[str]] = {}
    for clip in manifest:
        with av.open(str(manifest.path_of(clip))) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            decoded = sum(1 for _ in container.decode(stream))
        pose_file = manifest.pose_of(clip)
        assert pose_file is not None
        pose = read_pose(pose_file)
        item = instances[clip.clip_id]
        assert decoded == clip.frames == len(pose.keypoints)
        assert clip.fps == pytest.approx(pose.fps, rel=1e-3)
        assert 0.9 < decoded / pose.fps < 2.1
        assert (item["split"], str(item["signer_id"])) == (clip.split, clip.signer)
        x0, y0, x1, y1 = item["bbox"]
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 64
        signers.setdefault(clip.split, set()).add(clip.signer)
    assert {split: len(ids) for split, ids in signers.items()} == {"train": 2, "val": 1, "test": 1}
    assert len(set().union(*signers.values())) == 4


def test_a_stopped_run_continues_to_the_same_bytes_with_any_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    expected = _contents(corpus)
    videos = sorted(path for path in expected if path.endswith(".mp4"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "poses").mkdir()
    for name, data in expected.items():  # half-way: no manifest yet, some clips missing, one cut short
        if name.startswith(("videos/", "poses/")) and name not in videos[:2]:
            (tmp_path / name).write_bytes(data)
    (tmp_path / videos[3]).write_bytes(expected[videos[3]][:700])
    (tmp_path / "videos" / ".a0-0000-00-00.mp4.1.partial").write_bytes(b"killed here")
    write_corpus(tmp_path, dataclasses.replace(SMALL, workers=2))
    assert _contents(tmp_path) == expected


def test_a_folder_of_another_corpus_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="made with seed 0, not 1"):
        write_corpus(corpus, dataclasses.replace(SMALL, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 65}, "size is 65"),
        ({"signs": 0}, "signs is 0"),
        ({"val_signers": 3}, "leave none"),
        ({"fps": (31.0, 60.0)}, "fps 31 to 60"),
        ({"seed": -1}, "seed is -1"),
        ({"kind": "dance"}, "kind is 'dance'"),
        ({"kind": "actions", "signs": 99}, "there are 17 actions"),
        ({"kind": "actions", "lexicon": Path("x.csv")}, "takes no lexicon"),
        ({"homophones": 2}, "homophones is 2; at most half of 3"),
        ({"homophones": 1, "lexicon": Path("x.csv")}, "brings its own"),
    ],
)
def test_impossible_options_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]


def test_homophones_share_a_form_and_nothing_else(tmp_path: Path) -> None:
    options = SynthOptions(signs=4, homophones=1, signers=2, reps=1, size=48, val_signers=0, test_signers=1)
    with undrawn("clip"):
        manifest = write_corpus(tmp_path, options)
    plain = built_in_lexicon(4)
    assert [sign.phonology() for sign in read_lexicon(tmp_path / "lexicon.csv")] == [
        sign.phonology() for sign in (*plain[:3], plain[0])
    ]
    assert manifest.classes == tuple(sign.entry_id for sign in plain)
    assert {(clip.gloss, clip.form) for clip in manifest} == {
        *((sign.entry_id, sign.entry_id) for sign in plain[:3]),
        (plain[3].entry_id, plain[0].entry_id),
    }
