"""YouTube ids in the URLs of corpora."""

import re
import urllib.parse


def youtube_id(url: str) -> str | None:
    """Return the id of the one video that an address shows; None if it shows none, or is not on YouTube.

    A playlist in the address is ignored, so that it can never be expanded.
    """
    if not on_youtube(url):
        return None
    parts = _parts(url)
    found = _ID.search(f"{parts.path}?{parts.query}")
    return found[1] if found else None


_ID = re.compile(r"(?:[?&]v=|^/(?:embed/|shorts/|v/|live/)?)([A-Za-z0-9_-]{11})(?=$|[?&#/])")


def on_youtube(url: str) -> bool:
    """Return whether an address is one of YouTube's."""
    host = _parts(url).hostname or ""
    return host.removeprefix("www.").removeprefix("m.") in _HOSTS


def _parts(url: str) -> urllib.parse.SplitResult:
    """Split an address, with or without a scheme; all parts are empty if it is malformed."""
    try:
        return urllib.parse.urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return urllib.parse.SplitResult("", "", "", "", "")


_HOSTS = frozenset(("youtube.com", "youtu.be", "youtube-nocookie.com"))
