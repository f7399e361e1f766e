"""Pose estimation with MediaPipe Holistic, which runs in an environment of its own.

Frames are decoded here, under the decode contract, and sent to `holistic_script.py`, so that a pose has exactly the
frames that an encoder is shown. Each worker has one process; a process that crashes or hangs costs its clip and is
replaced.
"""

import contextlib
import json
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.data.poses.folder import PoseFolder
from islr.data.poses.pose import POINTS, Pose
from islr.data.video.decode import VideoInfo, decode, probe_video
from islr.data.video.guard import DecodeError
from islr.data.video.scan import find_videos
from islr.errors import UserError
from islr.files import file_sha256

VERSION = "0.10.21"  # the last releases with the models inside the package; later ones download theirs
MADE_BY = f"mediapipe {VERSION} holistic"
MODELS = {0: "pose_landmark_lite.tflite", 1: "", 2: "pose_landmark_heavy.tflite"}  # by complexity; 1 is in the package
HOW_TO = f"""\
MediaPipe needs an environment of its own (Python 3.9 to 3.12; it cannot share one with this suite):

  python3.11 -m venv pose-env
  pose-env/bin/pip install 'mediapipe=={VERSION}'
  islr data poses extract VIDEOS_OR_MANIFEST OUT --python pose-env/bin/python
"""

_SCRIPT = Path(__file__).with_name("holistic_script.py")
_CHECK_S = 120.0  # the first import on a cold disk is slow
_START_S, _FRAME_S = 60.0, 2.0  # deadline of a clip; a frame takes 0.05 to 0.3 s
_CHUNK_BYTES = 512 * 2**20  # of decoded frames in memory at a time
_SHOWN = 200  # characters of a process's last error message

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _PoseJob:
    clip_id: str
    path: Path
    root: Path
    start: float | None = None
    end: float | None = None
    info: VideoInfo | None = None


class ExtractorError(Exception):
    """The pose estimation process died or did not answer in time."""


def check_environment(python: str | Path) -> None:
    """Check that an interpreter has the right MediaPipe.

    Raises:
        UserError: It does not run, or has no MediaPipe, or another version.
    """
    try:
        answer = subprocess.run(
            _command(python, "--check"), capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--python {python}: does not run ({error})") from None
    try:
        found = json.loads(answer.stdout)
    except json.JSONDecodeError:
        raise UserError(
            f"--python {python}: has no working MediaPipe ({_last_line(answer.stderr)});"
            f" run `{python} -m pip install mediapipe=={VERSION}`"
        ) from None
    if found["mediapipe"] != VERSION or not found["holistic"]:
        raise UserError(
            f"--python {python}: has MediaPipe {found['mediapipe']}, poses are made with {VERSION};"
            f" run `{python} -m pip install mediapipe=={VERSION}`"
        )


def extract(
    videos: Manifest | str | Path,
    out: str | Path,
    *,
    python: str | Path,
    complexity: int = 1,
    model: str | Path | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PoseFolder:
    """Write a canonical pose file `<clip id>.npz` for every clip.

    Args:
        videos: A manifest (its readable clips, each over its time range) or a folder of videos.
        out: The folder to write; a second run adds what is missing and retries what failed.
        python: Interpreter of an environment with MediaPipe.
        complexity: Of the body's model: 0, 1 or 2.
        model: The model's file (see MODELS) for complexity 0 and 2; it is copied into the environment of MediaPipe, as
            MediaPipe's own download would do.
        workers: Processes; each uses about two cores.
        overwrite: Also estimate poses that exist already.
        progress: Called with (clips done, clips in all).

    Raises:
        UserError: The environment or the input cannot be used.
    """
    options, made_by = _settings(complexity, model)
    check_environment(python)
    jobs = _jobs(videos)
    folder = PoseFolder(out)
    todo = [job for job in jobs if overwrite or not folder.has(job.clip_id)]
    done = len(jobs) - len(todo)
    idle: SimpleQueue[HolisticProcess] = SimpleQueue()
    extractors = [HolisticProcess(python, options) for _ in range(min(workers, len(todo)))]
    for extractor in extractors:
        idle.put(extractor)

    def run(job: _PoseJob) -> Pose:
        extractor = idle.get()
        try:
            return replace(_pose_of(job, extractor), made_by=made_by)
        finally:
            idle.put(extractor)

    pool = ThreadPoolExecutor(max_workers=max(1, len(extractors)))
    try:
        futures = {pool.submit(run, job): job for job in todo}
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                folder.put(job.clip_id, future.result(), source=job.path.name, made_by=made_by)
            except (DecodeError, ExtractorError, UserError) as error:
                folder.fail(job.clip_id, _reason(error), source=job.path.name, made_by=made_by)
            done += 1
            if progress is not None:
                progress(done, len(jobs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for extractor in extractors:
            extractor.stop()
        folder.save()
    return folder


def _settings(complexity: int, model: str | Path | None) -> tuple[list[str], str]:
    """Return the script's options, and the program that poses are recorded to be made by.

    Raises:
        UserError: The complexity does not exist, or its model is missing or not needed.
    """
    if complexity not in MODELS:
        raise UserError(f"--complexity is 0, 1 or 2, not {complexity}")
    if complexity == 1:
        if model is not None:
            raise UserError("--model is for --complexity 0 and 2; the model of 1 is inside MediaPipe")
        return [], MADE_BY
    name = MODELS[complexity]
    if model is None or not Path(model).is_file():
        raise UserError(
            f"--complexity {complexity} needs its model, {name}, which MediaPipe lacks: give its path as --model"
        )
    made_by = f"{MADE_BY}, complexity {complexity}, model sha256 {file_sha256(model)[:12]}"
    return [f"--complexity={complexity}", f"--model={Path(model).resolve()}", f"--name={name}"], made_by


def _jobs(videos: Manifest | str | Path) -> list[_PoseJob]:
    if isinstance(videos, Manifest):
        return [_pose_job(videos, clip) for clip in videos if clip.status == OK]
    root = Path(videos)
    found = find_videos(root)
    names = [path.relative_to(root).with_suffix("").as_posix() for path in found]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(f"{root}: several videos are called {twice[0]}; their poses would be one file")
    return [_PoseJob(name, path, root) for name, path in zip(names, found, strict=True)]


def _pose_job(manifest: Manifest, clip: Clip) -> _PoseJob:
    info = None
    if clip.frames and clip.fps and clip.width and clip.height:
        info = VideoInfo(clip.frames, clip.fps, clip.width, clip.height)
    return _PoseJob(clip.clip_id, manifest.path_of(clip), manifest.root, clip.start, clip.end, info)


def _pose_of(job: _PoseJob, extractor: "HolisticProcess") -> Pose:
    info = job.info or probe_video(job.path, job.root, start=job.start, end=job.end)

    def frames(first: int, end: int) -> np.ndarray:
        pictures = decode(job.path, np.arange(first, end), start=job.start, end=job.end, root=job.root)
        if pictures.shape[1:3] != (info.height, info.width):
            # The manifest describes another file, so that the pose would have the wrong shape.
            size = f"{pictures.shape[2]}x{pictures.shape[1]}, listed as {info.width}x{info.height}"
            raise DecodeError("size changes", job.path, size)
        return pictures

    step = max(1, _CHUNK_BYTES // (info.width * info.height * 3))
    chunks = [(first, min(first + step, info.frames)) for first in range(0, info.frames, step)]
    found = extractor.find(info, (frames(*chunk) for chunk in chunks))
    return Pose(found[:, :, :3], found[:, :, 3], info.fps, info.width, info.height, job.start or 0.0)


class HolisticProcess:
    """A process of MediaPipe Holistic, started on first use and again after a crash."""

    def __init__(
        self, python: str | Path, options: Sequence[str] = (), start_s: float = _START_S, frame_s: float = _FRAME_S
    ) -> None:
        self._command, self._start_s, self._frame_s = _command(python, *options), start_s, frame_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def find(self, info: VideoInfo, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """Estimate float32 `[T, 75, 4]` (x, y, z, confidence) of frames that come in chunks uint8 `[n, H, W, 3]`.

        Raises:
            DecodeError: The chunks could not be made.
            ExtractorError: The process died or took too long.
        """
        process = self._running()
        late = threading.Event()

        def expire() -> None:
            late.set()
            process.kill()

        deadline = threading.Timer(self._start_s + self._frame_s * info.frames, expire)
        deadline.start()
        try:
            return _converse(process, info, chunks)
        except BaseException as error:
            # Half a clip may be in the pipe; only a new process is sure to expect a new clip.
            message = self.stop()
            if late.is_set():
                raise ExtractorError(f"no pose after {deadline.interval:.0f} s") from None
            if isinstance(error, OSError | EOFError):
                raise ExtractorError(f"the pose estimation process died: {message}") from None
            raise
        finally:
            deadline.cancel()

    def stop(self) -> str:
        """Kill the process; return the last line of its standard error."""
        if self._process is None or self._errors is None:
            return ""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # bytes that could not be sent
                pipe.close()  # type: ignore[union-attr]
        self._errors.seek(0)
        message = _last_line(self._errors.read().decode(errors="replace"))
        self._errors.close()
        self._process = self._errors = None
        return message

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop(), with its process
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        return self._process


def _converse(process: "subprocess.Popen[bytes]", info: VideoInfo, chunks: Iterable[np.ndarray]) -> np.ndarray:
    assert process.stdin is not None
    assert process.stdout is not None
    about = {"frames": info.frames, "height": info.height, "width": info.width}
    process.stdin.write(json.dumps(about).encode() + b"\n")
    for frames in chunks:
        process.stdin.write(np.ascontiguousarray(frames).data)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise EOFError
    size = json.loads(line)["bytes"]
    content = process.stdout.read(size)
    if len(content) < size:
        raise EOFError
    return np.frombuffer(content, np.float32).reshape(info.frames, POINTS, 4)


def _command(python: str | Path, *options: str) -> list[str]:
    # -I isolates the other environment from this package and from the files beside the script.
    return [str(python), "-I", str(_SCRIPT), *options]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[-_SHOWN:] if lines else "no message"


def _reason(error: Exception) -> str:
    return error.kind + (f": {error.detail}" if error.detail else "") if isinstance(error, DecodeError) else str(error)
