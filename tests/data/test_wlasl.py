"""WLASL: every instance is a row, ranges and boxes are those of the file at hand, wrong input is one line."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.video_files import make_video, numbers_of
from support.wlasl_files import instance, small_wlasl, write_json

from islr.cli import run
from islr.data.corpora.wlasl import fit_box, from_wlasl
from islr.data.corpora.wlasl_json import read_instances, span_of
from islr.data.corpora.youtube import youtube_id
from islr.data.labels import Labels
from islr.data.manifest import Manifest
from islr.data.video.decode import decode
from islr.data.video.scan import ScanJob, Scanned, scan
from islr.errors import UserError
from islr.files import file_sha256


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return small_wlasl(tmp_path_factory.mktemp("wlasl"))


@pytest.fixture(scope="module")
def manifest(files: tuple[Path, Path, Path]) -> Manifest:
    return from_wlasl(files[0], files[1], poses=files[2], workers=0)


def test_every_instance_is_a_row_with_its_status(manifest: Manifest) -> None:
    assert {clip.clip_id: clip.status for clip in manifest} == {
        "00001": "ok",
        "00002": "missing",
        "00003": "ok",
        "00010": "ok",
        "00011": "missing",
        "00020": "corrupt:empty",
        "00021": "corrupt:truncated",
        "00022": "missing",
        "70023": "ok",
    }
    assert Counter(clip.split for clip in manifest) == {"train": 3, "val": 2, "test": 4}
    assert manifest.classes == ("book", "don't want", "ice cream")


def test_row_holds_what_the_json_says_and_what_decoding_found(manifest: Manifest) -> None:
    clip = next(clip for clip in manifest if clip.clip_id == "00010")
    assert (clip.gloss, clip.label, clip.split, clip.signer, clip.source) == (
        "don't want",
        1,
        "train",
        "9",
        "site",
    )
    assert (clip.frames, clip.fps, clip.width, clip.height) == (22, 25.0, 96, 64)
    assert clip.path == "videos/deep/00010.mp4"
    assert clip.box == (10.0, 5.0, 80.0, 64.0)
    assert manifest.path_of(clip).is_file()
    missing = next(clip for clip in manifest if clip.clip_id == "00011")
    assert (missing.path, missing.frames) == ("videos/00011.mp4", None)


def test_poses_are_linked_where_they_exist(manifest: Manifest) -> None:
    assert {clip.clip_id for clip in manifest if clip.pose} == {"00001", "00003"}
    path = manifest.pose_of(manifest.clips[0])
    assert path is not None
    assert path.is_file()
    assert manifest.notes["clips_with_video_but_no_pose"] == 2


def test_notes_count_what_was_decided(manifest: Manifest) -> None:
    assert manifest.notes["video_files_not_in_json"] == 1
    assert manifest.notes["same_origin"] == [["00001", "00020"]]
    assert manifest.notes["instances_in_json"] == 9


def test_saved_manifest_loads_equal(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path) == manifest


def test_subset_is_by_class_index(files: tuple[Path, Path, Path]) -> None:
    two = from_wlasl(files[0], files[1], subset=2, workers=0)
    assert two.classes == ("book", "don't want")
    assert {clip.label for clip in two} == {0, 1}
    assert len(two) == 5
    with pytest.raises(UserError, match="subset 4"):
        from_wlasl(files[0], files[1], subset=4, workers=0)


def test_second_scan_decodes_only_what_is_new(
    files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(job: ScanJob, root: Path) -> Scanned:
        decoded.append(job.path.stem)
        return Scanned("ok", 1, 25.0, 8, 8, sha256=file_sha256(job.path))

    monkeypatch.setitem(scan.__kwdefaults__, "measure_one", counted)
    out = tmp_path / "made" / "manifest.csv"
    first = from_wlasl(files[0], files[1], workers=0, out=out)
    assert sorted(decoded) == ["00001", "00003", "00010", "00020", "00021", "70023"]
    again = from_wlasl(files[0], files[1], workers=0, out=out)
    assert len(decoded) == 6
    assert again == first
    (files[1] / "00003.mp4").touch()
    from_wlasl(files[0], files[1], workers=0, out=out)
    assert len(decoded) == 6, "its bytes are known"
    (files[1] / "00003.mp4").write_bytes(b"something else")
    from_wlasl(files[0], files[1], workers=0, out=out)
    assert decoded[6:] == ["00003"]
    (tmp_path / "made" / "manifest.scan.json").write_text("{broken")
    from_wlasl(files[0], files[1], workers=0, out=out)
    assert len(decoded) == 13


def test_frame_ranges_are_one_based_inclusive_at_25_frames_a_second() -> None:
    assert span_of(1, -1) == (None, None)
    assert span_of(1, 50) == (None, 2.0)
    assert span_of(26, -1) == (1.0, None)
    assert span_of(26, 50) == (1.0, 2.0)  # 25 frames


def test_range_applies_to_uncut_videos_only(tmp_path: Path) -> None:
    ranges = {
        "10": (26, 50),
        "11": (26, 50),
        "12": (26, 50),
        "13": (200, 260),
        "14": (26, -1),
        "15": (99, -1),
        "16": (2, 30),
    }
    frames = {"10": 60, "11": 30, "12": 25, "13": 60, "14": 60, "15": 60, "16": 29}
    fps = {"11": 30}
    items = [instance(n, "train", frame_start=a, frame_end=b) for n, (a, b) in ranges.items()]
    for name, count in frames.items():
        make_video(tmp_path / f"{name}.mp4", count, fps=fps.get(name, 25))
    manifest = from_wlasl(write_json(tmp_path / "w.json", {"book": items}), tmp_path, workers=0)
    found = {clip.clip_id: (clip.start, clip.end, clip.frames) for clip in manifest}
    assert found == {
        "10": (1.0, 2.0, 25),  # uncut: 2.4 s hold the range
        "11": (None, None, 30),  # one second long, as the range: already cut
        "12": (None, None, 25),
        "13": (None, None, 60),  # the range lies outside: already cut
        "14": (1.0, None, 35),
        "15": (None, None, 60),
        "16": (None, None, 29),  # would fit, but the file is exactly as long as the range
    }
    assert manifest.notes["ranges_used"] == 2
    assert manifest.notes["ranges_of_clips_already_cut"] == 5


def test_box_is_scaled_to_a_shrunk_file_and_clamped() -> None:
    assert fit_box((10, 20, 90, 64), 96, 64) == ((10, 20, 90, 64), False)
    assert fit_box((10, -3, 322, 64), 320, 240) == ((10, 0, 320, 64), False)
    # 1280x720 shrunk to 320x180: everything by four.
    assert fit_box((400, 40, 880, 720), 320, 180) == ((100, 10, 220, 180), True)
    # The one box in the wild that lies beyond its own file's picture.
    box, scaled = fit_box((417, 61, 834, 720), 736, 414)
    assert scaled
    assert box == pytest.approx((239.8, 35.1, 479.6, 414.0), abs=0.1)
    assert fit_box((500, 5, 501, 6), 96, 64)[0] is None


def test_file_names_with_gloss_and_lost_zeros(tmp_path: Path) -> None:
    path = write_json(tmp_path / "w.json", {"ice cream": [instance("00020", "train"), instance("00300", "test")]})
    (tmp_path / "a").mkdir()
    make_video(tmp_path / "a" / "ice cream_00020_7.mp4", 2)
    make_video(tmp_path / "a" / "ice cream_300_1.mp4", 3)
    manifest = from_wlasl(path, tmp_path / "a", pattern="{gloss}_{id}_{n}", workers=0)
    assert [clip.frames for clip in manifest] == [2, 3]
    with pytest.raises(UserError, match="use --pattern"):
        from_wlasl(path, tmp_path / "a", workers=0)
    with pytest.raises(UserError, match="must stand"):
        from_wlasl(path, tmp_path / "a", pattern="{gloss}", workers=0)


def test_nslt_restricts_checks_and_reports_its_extra_ids(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    entries = {
        "00001": {"subset": "train", "action": [0, 1, 20]},
        "00011": {"subset": "test", "action": [1, 1, 30]},
        "12209": {"subset": "val", "action": [2, 1, 209]},
    }
    nslt = tmp_path / "nslt_2.json"
    nslt.write_text(json.dumps(entries))
    manifest = from_wlasl(files[0], files[1], nslt=nslt, workers=0)
    assert [clip.clip_id for clip in manifest] == ["00001", "00011"]
    assert manifest.classes == ("book", "don't want")
    assert manifest.notes["nslt_ids_not_in_json"] == ["12209"]
    assert manifest.notes["json_ids_not_in_nslt"] == 7
    assert set(manifest.sources) == {"WLASL.json", "nslt_2.json"}
    for key, value in (("subset", "test"), ("action", [1, 1, 20])):
        nslt.write_text(json.dumps({**entries, "00001": {**entries["00001"], key: value}}))
        with pytest.raises(UserError, match="clip 00001"):
            from_wlasl(files[0], files[1], nslt=nslt, workers=0)


def test_class_list_is_checked_and_respelt_classes_are_noted(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    listed = tmp_path / "classes.txt"
    listed.write_text("0\tbook\r\n1\tdont want\r\n2\tice cream\r\n")  # a copy with Windows line ends
    manifest = from_wlasl(files[0], files[1], class_list=listed, workers=0)
    assert manifest.notes["classes_spelt_otherwise"] == ["1: dont want, in the json don't want"]
    assert manifest.classes[1] == "don't want"
    for content, message in (
        ("0\tbook\n1\tice cream\n2\tdon't want\n", "do not belong together"),  # sorted otherwise
        ("0\tbook\n", "do not belong together"),
        ("book\n", "not a class list"),
    ):
        listed.write_text(content)
        with pytest.raises(UserError, match=message):
            from_wlasl(files[0], files[1], class_list=listed, workers=0)


def test_command_takes_forms_or_labels(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("x/00001.mp4 1\nx/00020.mp4 1\nx/00010.mp4 0\n")
    (tmp_path / "test.csv").write_text("x/00003.mp4 1\nx/00022.mp4 1\n")
    (tmp_path / "names.txt").write_text("WANT\nBOOK")
    out = tmp_path / "manifest.csv"
    command = ["data", "wlasl", "--json", str(files[0]), "--videos", str(files[1]), "--out", str(out), "--workers", "1"]
    lists = [str(tmp_path / "train.csv"), str(tmp_path / "test.csv")]
    names = ["--label-names", str(tmp_path / "names.txt")]
    assert run([*command, "--forms", lists[0], "--forms", lists[1], *names]) == 0
    kept = Manifest.load(out)
    assert kept.classes == ("book", "don't want", "ice cream")
    assert {clip.clip_id: clip.form for clip in kept if clip.form} == {
        **dict.fromkeys(("00001", "00003", "00020", "00022"), "BOOK"),
        "00010": "WANT",
    }
    # The form BOOK is signed for two glosses; a form recogniser that names the first misses the other.
    assert "top-1 50.00" in capsys.readouterr().out
    assert run([*command, "--labels", lists[0], "--labels", lists[1], *names]) == 0
    assert Manifest.load(out).classes == ("WANT", "BOOK")
    assert run([*command, "--labels", lists[0], "--forms", lists[0]]) == 2
    assert run([*command, *names]) == 2


def test_revised_labels_replace_classes_and_shrink_splits(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels = Labels(("same", "unused", "sweet"), {"00001": 0, "00003": 0, "20": 2, "70023": 2}, {"l.csv": "0"})
    revised = from_wlasl(files[0], files[1], labels=labels, workers=0)
    assert {clip.clip_id: (clip.form, clip.label, clip.split) for clip in revised if clip.form} == {
        "00001": ("same", 0, "train"),
        "00003": ("same", 0, "test"),
        "00020": ("sweet", 2, "train"),
        "70023": ("sweet", 2, "test"),
    }
    assert Counter(clip.split for clip in revised) == {"train": 2, "test": 2, "none": 5}
    assert revised.notes["revised_label_coverage"]["test"] == {"labelled": 2, "of": 4}
    one = from_wlasl(files[0], files[1], labels=labels, subset=1, workers=0)
    assert one.classes == ("same",)
    (tmp_path / "l.csv").write_text("00003.mp4 1\n")
    (tmp_path / "names.txt").write_text("a\nb\n")
    read = from_wlasl(files[0], files[1], labels=tmp_path / "l.csv", label_names=tmp_path / "names.txt", workers=0)
    assert [clip.form for clip in read if clip.form] == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{broken", "not valid json"),
        ("[]", "list of glosses"),
        ('{"gloss": 1}', "holds no list"),
        ('[{"gloss": "a"}]', "entry 0 is not of the WLASL schema"),
        ('[{"gloss": "a", "instances": [{"split": "val"}]}]', "has no video_id"),
        (json.dumps([{"gloss": "a", "instances": [instance("1", "dev")]}]), "split 'dev'"),
        (
            json.dumps([{"gloss": "a", "instances": [instance("1", "val"), instance("1", "test")]}]),
            "'1' is listed twice",
        ),
        (json.dumps([{"gloss": "a", "instances": []}]), "lists no clips"),
    ],
)
def test_wrong_json_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "w.json"
    if content is not None:
        path.write_text(content)
    make_video(tmp_path / "1.mp4", 2)
    with pytest.raises(UserError) as caught:
        from_wlasl(path, tmp_path, workers=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_folders_are_one_line(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of videos"):
        from_wlasl(files[0], tmp_path / "absent")
    with pytest.raises(UserError, match="holds no video"):
        from_wlasl(files[0], tmp_path)
    with pytest.raises(UserError, match="no such folder of poses"):
        from_wlasl(files[0], files[1], poses=tmp_path / "absent")
    with pytest.raises(UserError, match="not inside the data root"):
        from_wlasl(files[0], files[1], root=tmp_path)


@pytest.mark.real
def test_the_full_json_with_a_few_real_clips(shared: Path, tmp_path: Path) -> None:
    for name in ("00623", "01383", "07070"):
        (tmp_path / f"{name}.mp4").write_bytes((shared / "data" / "wlasl100_clips" / f"{name}.mp4").read_bytes())
    wlasl = shared / "data" / "wlasl"
    manifest = from_wlasl(wlasl / "WLASL_v0.3.json", tmp_path, nslt=wlasl / "nslt_2000.json", workers=0)
    assert len(manifest) == 21083
    assert Counter(clip.split for clip in manifest) == {"train": 14289, "val": 3916, "test": 2878}
    assert sum(clip.status == "ok" for clip in manifest) == 3
    assert len(manifest.notes["nslt_ids_not_in_json"]) == 12
    assert sum(map(len, manifest.notes["same_origin"])) == 1978
    clip = next(clip for clip in manifest if clip.clip_id == "00623")
    assert (clip.gloss, clip.label, clip.frames, clip.fps) == ("accident", 51, 104, 25.0)
    hundred = from_wlasl(wlasl / "WLASL_v0.3.json", tmp_path, subset=100, workers=0)
    assert len(hundred) == 2038
    assert sum(clip.split == "test" for clip in hundred) == 258


def test_whole_videos_named_by_their_youtube_id_serve_all_their_instances(tmp_path: Path) -> None:
    make_video(tmp_path / "a_-4567890b.mp4", 100)
    make_video(tmp_path / "00003.mp4", 20, first=50)
    make_video(tmp_path / "short678901.mp4", 10)
    watch = "https://www.youtube.com/watch?v=a_-4567890b"
    instances = [
        instance("00001", "train", url=watch, frame_start=11, frame_end=30),
        instance("00002", "train", url="youtu.be/a_-4567890b", frame_start=41, frame_end=60),
        instance("00003", "test", url=watch, frame_start=51, frame_end=70),
        instance("00004", "test", url="https://youtu.be/short678901", frame_start=51, frame_end=70),
        instance("00005", "test", url="https://youtu.be/absent78901"),
    ]
    manifest = from_wlasl(write_json(tmp_path / "w.json", {"book": instances}), tmp_path, workers=0)
    assert [(c.path, c.frames, c.first_frame, c.file_frames, c.status) for c in manifest] == [
        ("a_-4567890b.mp4", 20, 10, 100, "ok"),
        ("a_-4567890b.mp4", 20, 40, 100, "ok"),
        ("00003.mp4", 20, None, None, "ok"),
        ("short678901.mp4", 0, 0, 10, "corrupt:no frames"),
        ("00005.mp4", None, None, None, "missing"),
    ]
    clip = manifest.clips[1]
    assert numbers_of(decode(manifest.path_of(clip), start=clip.start, end=clip.end)) == list(range(40, 60))


@pytest.mark.real
def test_youtube_ids_of_wlasl100(shared: Path) -> None:
    instances, _, left_out = read_instances(shared / "data" / "wlasl" / "WLASL_v0.3.json")
    first = [instance for instance in instances if instance.label < 100]
    assert (len(first), sum(youtube_id(instance.url) is not None for instance in first), left_out) == (2038, 685, [])
