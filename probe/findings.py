"""Findings: the numbers of an analysis with their bootstrap draws, before they become records.

A finding holds its draws, so that averages over features, means over seeds and differences between rows are computed
draw by draw, as for the probes themselves.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from probe.features.npz_cache import read_npz, write_npz
from probe.statistics.scores import CI_METHOD

Key = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One number of one analysis.

    Attributes:
        analysis: Name of the analysis.
        metric: Name of the metric.
        feature: The feature, bundle or average that was measured.
        values: The sample's value and those of the bootstrap draws `[1 + B]`; `[1]` where there is no interval.
        clips: Clips behind the value.
        signs: Sign groups behind the value.
        setting: The condition, such as "k=5"; "" where there is one only.
        layer: Number of a block, or "chosen" (inside the training signs), or "all".
        higher_is_better: Direction.
        method: Description of how the interval was computed.
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
        """Identifier of the finding within its row."""
        return self.analysis, self.metric, self.feature, self.setting, self.layer

    def marked(self, note: str) -> "Finding":
        """Return the finding with a note added to its method."""
        return replace(self, method=self.method + note)


def mean_over_seeds(parts: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Average the findings of several seeds of one row, draw by draw; a finding that a seed lacks is left out."""
    others = [{finding.key: finding for finding in part} for part in parts[1:]]
    return [
        replace(finding, values=np.mean([finding.values, *(other[finding.key].values for other in others)], axis=0))
        for finding in parts[0]
        if all(finding.key in other for other in others)
    ]


def differences(findings: Sequence[Finding], floor: Sequence[Finding]) -> list[Finding]:
    """Subtract the findings of another row, draw by draw, from those that have an interval."""
    other = {finding.key: finding for finding in floor}
    return [
        replace(
            finding,
            metric=f"{finding.metric}_difference",
            values=finding.values - other[finding.key].values,
            clips=min(finding.clips, other[finding.key].clips),
        )
        for finding in findings
        if finding.key in other and len(finding.values) > 1
    ]


def save(path: Path, key: str, findings: Sequence[Finding]) -> None:
    """Write findings to one file, atomically."""
    rows = [{name: value for name, value in asdict(finding).items() if name != "values"} for finding in findings]
    write_npz(path, key, {str(number): finding.values for number, finding in enumerate(findings)}, rows)


def load(path: Path, key: str) -> list[Finding] | None:
    """Read findings saved under the same key, or return None."""
    stored = read_npz(path, key)
    if stored is None:
        return None
    arrays, rows = stored
    return [Finding(values=arrays[str(number)], **row) for number, row in enumerate(rows)]
