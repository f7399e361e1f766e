"""Probe scores layer by layer."""

from collections.abc import Sequence

from islr.reporting.document import figures, text
from islr.reporting.document.blocks import (
    Block,
    Chart,
    Series,
)
from islr.reporting.findings.grid import SCRATCH, regime_order, regime_series
from islr.reporting.findings.probe_standings import (
    HEADLINE,
    METRIC,
    ProbeRow,
    ProbeSet,
)

_PANELS = 6  # layer curves shown at once; the others are folded


_Points = dict[tuple[str, tuple[str, str, str]], list[tuple[int, float]]]  # feature, row key -> (layer, value)


def blocks_of(probed: ProbeSet) -> list[Block]:
    """Draw balanced accuracy on unseen signs by layer: in a grid by method and regime, else by feature."""
    points: _Points = {}
    for (metric, name, encoder, control, feature, split, layer), record in probed.records.items():
        if metric == METRIC and split == HEADLINE and layer.isdigit():
            points.setdefault((feature, (name, encoder, control)), []).append((int(layer), record.value))
    if not points:
        return []
    if any(row.place for row in probed.rows):
        return _layers_of_a_grid(probed, points)
    panels: dict[str, str] = {}
    spread: dict[str, float] = {}
    for feature in probed.features:
        panel = _layer_panel(probed, points, feature, text.feature_name(feature), [(r, r.series) for r in probed.rows])
        if panel:
            panels[feature] = panel
            tops = [max(v for _, v in points[feature, row.key]) for row in probed.rows if (feature, row.key) in points]
            spread[feature] = max(tops) - min(tops)
    legend = tuple((row.label, row.series) for row in probed.rows if any(key == row.key for _, key in points))
    means = [feature for feature in panels if feature == probed.mean]
    singles = sorted((f for f in panels if f in probed.singles), key=lambda f: -spread[f])
    first = (means + singles)[:_PANELS]
    rest = [feature for feature in panels if feature not in first]
    caption = f"{_layer_words(probed)} Shown are the features on which encoders differ most."
    blocks: list[Block] = [Chart(caption, tuple(panels[f] for f in first), legend=legend)]
    if rest:
        others = tuple(panels[f] for f in rest)
        title = f"Layer by layer: {len(rest)} more"
        blocks.append(Chart("", others, legend=legend, folded=title))
    return blocks


def _layer_words(probed: ProbeSet) -> str:
    return (
        f"Balanced accuracy on unseen signs of {probed.title} from the features of each layer (0 is the first block). "
        "Scales differ from panel to panel; the dashed line is the majority class."
    )


def _layers_of_a_grid(probed: ProbeSet, points: _Points) -> list[Block]:
    """Draw the mean of each method by regime; folded, every feature by method, one chart for each regime."""
    placed = [row for row in probed.rows if row.place]
    regimes = regime_order([SCRATCH, *(row.place[1] for row in placed if row.place)])
    series = regime_series(regimes)
    starts = {row.key[1]: row for row in probed.rows if row.random}
    mean = probed.mean or probed.features[0]
    panels = []
    for method in dict.fromkeys(row.place[0] for row in placed if row.place):
        mine = [(row, series[row.place[1]]) for row in placed if row.place and row.place[0] == method]
        start = starts.get(mine[0][0].key[1])
        panels.append(
            _layer_panel(probed, points, mean, method, [*([(start, None)] if start else []), *mine], markers=True)
        )
    legend = tuple((text.regime_name(regime), series[regime]) for regime in regimes)
    caption = f"{text.feature_name(mean)}, by method. {_layer_words(probed)}"
    blocks: list[Block] = [Chart(caption, tuple(filter(None, panels)), legend=legend)]
    for regime in regimes[1:]:
        shown = [(row, row.series) for row in placed if row.place and row.place[1] == regime]
        used = {row.key[1] for row, _ in shown}
        shown += [(row, row.series) for encoder, row in starts.items() if encoder in used]
        drawn = [
            _layer_panel(probed, points, feature, text.feature_name(feature), shown, markers=False)
            for feature in probed.shown
        ]
        names = tuple((row.place[0] if row.place else row.label, colour) for row, colour in shown)
        title = f"Feature by feature: {text.regime_name(regime)}"
        blocks.append(Chart("", tuple(filter(None, drawn)), legend=names, folded=title))
    return blocks


def _layer_panel(
    found: ProbeSet,
    points: _Points,
    feature: str,
    title: str,
    rows: Sequence[tuple[ProbeRow, Series]],
    markers: bool = True,
) -> str:
    """Draw one panel; empty where no row was probed layer by layer."""
    drawn = []
    for row, series in rows:
        line = sorted(points.get((feature, row.key), []))
        if line:
            drawn.append(figures.Line(row.label, [x for x, _ in line], [y for _, y in line], series, points=markers))
    if not drawn:
        return ""
    floor = found.floor(feature, HEADLINE)
    values = [y for line in drawn for y in line.ys] + ([floor] if floor else [])
    room = 0.08 * ((max(values) - min(values)) or 0.1)
    span = (max(0.0, min(values) - room), min(1.0, max(values) + room))
    reference = (floor, "majority") if floor else None
    return figures.lines(f"{title}, %", drawn, "layer", True, span, reference, whole_x=True)
