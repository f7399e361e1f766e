"""Downloads from YouTube through yt-dlp, an optional tool that runs as a process so that it can be stopped."""

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from islr.data.fetch import table
from islr.data.fetch.failure import FetchFailure, Stopped, TransferLimits

HOST = "www.youtube.com"

# H.264 decodes at a tenth of the cost of its successors; sound is not needed, so nothing has to be merged.
_FORMAT = "bv*[vcodec^=avc1][height<=1080]/bv*[height<=1080]/b"
_LONGEST_S = 3600.0  # for one video
_POLL_S = 0.2
_KILL_S = 5.0

# Patterns of yt-dlp's messages, tried in this order: a private video's message also mentions signing in.
_MESSAGES: tuple[tuple[str, str], ...] = (
    (r"private video|has been (?:removed|terminated)|no longer available|account .{0,60}terminated", table.DEAD),
    (r"not a bot|HTTP Error 429|rate.limit", table.BLOCKED),
    (r"your country|confirm your age|age.restricted|members|join this channel|HTTP Error 403|sign in", table.BLOCKED),
    (r"unavailable|not available|does not exist|incomplete youtube id|HTTP Error 404", table.DEAD),
    (r"timed out", table.TIMEOUT),
    (r"failed to resolve|connection|network|getaddrinfo|unreachable|urlopen error", table.UNREACHABLE),
)
_OF_HOST = re.compile(r"not a bot|HTTP Error 429|rate.limit|failed to resolve|urlopen error", re.IGNORECASE)
_FULL_DISK = re.compile(r"No space left on device")


def find_command() -> tuple[str, ...]:
    """Return the command that starts yt-dlp: this environment's, else that on the path; empty if there is none."""
    if importlib.util.find_spec("yt_dlp") is not None:
        return sys.executable, "-m", "yt_dlp"
    program = shutil.which("yt-dlp")
    return (program,) if program else ()


def download_youtube(
    video_id: str,
    target: Path,
    limits: TransferLimits,
    stop: threading.Event,
    command: Sequence[str],
    cookies: Path | None = None,
    held: int | None = None,
) -> None:
    """Make one attempt at downloading a video; yt-dlp continues an earlier attempt.

    Args:
        video_id: Its eleven characters.
        target: The file to make.
        limits: yt-dlp's timeout for each answer, and its largest file.
        stop: Ends the attempt when set.
        command: The command that starts yt-dlp.
        cookies: A cookies.txt for videos that require a signed-in viewer.
        held: A locked file descriptor that yt-dlp inherits, so that it holds the lock if it outlives this process.

    Raises:
        FetchFailure: It did not come.
        Stopped: `stop` was set.
        OSError: The disk is full.
    """
    arguments = (
        *("--ignore-config", "--no-playlist", "--quiet", "--no-warnings", "--no-progress", "--no-mtime"),
        *("--fixup", "never", "--format", _FORMAT, "--retries", "3"),
        *("--socket-timeout", f"{limits.timeout:g}", "--max-filesize", str(limits.max_bytes)),
        *(("--cookies", str(cookies.resolve())) if cookies else ()),
        # Without a field for the suffix, the file gets this name whatever its container is.
        *("--output", target.name.replace("%", "%%")),
    )
    whole = [*command, *arguments, "--", f"https://{HOST}/watch?v={video_id}"]
    with target.with_name(target.name + ".log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            whole,
            cwd=target.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=() if held is None else (held,),
        )
        try:
            late = _wait(process, stop)
        finally:
            if process.poll() is None:
                _end(process)
        log.seek(0)
        messages = log.read()
    target.with_name(target.name + ".log").unlink()
    if late:
        raise FetchFailure(table.TIMEOUT, f"not done after {_LONGEST_S:.0f} s", retry=True)
    if process.returncode == 0 and target.is_file():
        return
    raise _failure(messages, process.returncode)


def _wait(process: "subprocess.Popen[bytes]", stop: threading.Event) -> bool:
    """Wait for yt-dlp; return True if it takes too long."""
    began = time.monotonic()
    while process.poll() is None:
        if stop.wait(_POLL_S):
            raise Stopped
        if time.monotonic() - began > _LONGEST_S:
            return True
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(messages: str, code: int) -> FetchFailure:
    """Return the failure that yt-dlp's error message describes."""
    lines = [line for line in messages.splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")
    if _FULL_DISK.search(messages):
        raise OSError(line)
    if code == 0:  # for yt-dlp, declining a file that is too large is no error
        return FetchFailure(table.TOO_LARGE, line or "larger than the cap")
    for pattern, outcome in _MESSAGES:
        if re.search(pattern, line, re.IGNORECASE):
            retry = outcome in (table.TIMEOUT, table.UNREACHABLE)
            return FetchFailure(outcome, line, retry=retry, of_host=bool(_OF_HOST.search(line)))
    return FetchFailure(table.SERVER_ERROR, line or f"yt-dlp ended with {code}", retry=True)
