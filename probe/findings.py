"""What an analysis finds: a number with its bootstrap draws, before it becomes a record.

Findings keep their draws, so that averages over features, means over seeds and differences between rows are
made draw by draw, as for the probes themselves.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from probe.npz_cache import keep, kept
from probe.statistics.scores import CI_METHOD

Key = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One number of one analysis.

    Attributes:
        analysis: Which analysis.
        metric: What was measured.
        feature: The feature, bundle or average it is about.
        values: The sample's value and those of the bootstrap draws `[1 + B]`; `[1]` where there is no interval.
        clips: Clips behind the value.
        signs: Sign groups behind the value.
        setting: The condition, such as "k=5"; "" where there is one only.
        layer: Number of a block, or "chosen" (inside the training signs), or "all".
        higher_is_better: Direction.
        method: How the interval was made, in words.
    """

    analysis: str
    metric: str
    feature: str
    values: np.ndarray
    clips: int
    signs: int
    setting: str = ""
    layer: str = "chosen"
    higher_is_better: bool = True
    method: str = CI_METHOD

    @property
    def key(self) -> Key:
        """What tells the findings of one row apart."""
        return self.analysis, self.metric, self.feature, self.setting, self.layer

    def marked(self, words: str) -> "Finding":
        """The same with words added to the interval's method."""
        return replace(self, method=self.method + words)


def mean_over_seeds(parts: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Findings of several seeds of one row as one, value by value; what a seed lacks is left out."""
    others = [{finding.key: finding for finding in part} for part in parts[1:]]
    return [
        replace(finding, values=np.mean([finding.values, *(other[finding.key].values for other in others)], axis=0))
        for finding in parts[0]
        if all(finding.key in other for other in others)
    ]


def differences(found: Sequence[Finding], floor: Sequence[Finding]) -> list[Finding]:
    """Paired differences of the findings that have an interval to those of another row, draw by draw."""
    other = {finding.key: finding for finding in floor}
    return [
        replace(
            finding,
            metric=f"{finding.metric}_difference",
            values=finding.values - other[finding.key].values,
            clips=min(finding.clips, other[finding.key].clips),
        )
        for finding in found
        if finding.key in other and len(finding.values) > 1
    ]


def save(path: Path, key: str, found: Sequence[Finding]) -> None:
    """Write findings as one file, whole or not at all."""
    rows = [{name: value for name, value in asdict(finding).items() if name != "values"} for finding in found]
    keep(path, key, {str(number): finding.values for number, finding in enumerate(found)}, rows)


def load(path: Path, key: str) -> list[Finding] | None:
    """What was saved under the same key, or None."""
    stored = kept(path, key)
    if stored is None:
        return None
    arrays, rows = stored
    return [Finding(values=arrays[str(number)], **row) for number, row in enumerate(rows)]
