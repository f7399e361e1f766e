"""The code and library versions that numbers depend on."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

import islr
from islr import plugins

RECORDED_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "av",
    "decord",
    "decord2",
    "torchcodec",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
)

# What torch.backends.cpu.get_cpu_capability() tells apart on x86, widest first, by the flags it needs.
VECTOR_EXTENSIONS = {
    "AVX512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"},
    "AVX2": {"avx2", "fma"},
}


@cache
def commit() -> str:
    """The checkout's commit, with `+changes` when tracked files differ; the version outside a checkout."""
    root = Path(islr.__file__).parent.parent
    if not (root / ".git").exists():
        return f"release {islr.__version__}"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"release {islr.__version__}"
    return head + ("+changes" if changed.stdout.strip() else "")


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on, and of the plug-ins that are loaded."""
    return _libraries() | plugins.used()


@cache
def _libraries() -> dict[str, str]:
    versions = {"islr-bench": islr.__version__, "python": platform.python_version()}
    for name in RECORDED_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions | {"cpu": cpu()}


@cache
def cpu() -> str:
    """Return the processor's model and the vector extension that torch uses on it, without importing torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    extension = next((name for name, needed in VECTOR_EXTENSIONS.items() if needed <= flags), "default")
    return f"{facts.get('model name', platform.machine())} ({extension})"
