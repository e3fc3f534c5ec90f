"""[pure] Bar charts as SVG, one panel below the other; colours that can be told apart on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _VALUE = 760, 170, 90
_BAR, _GAP, _TITLE = 20, 6, 34
_PLAIN, _MARKED, _INK = "#8a94a6", "#d9822b", "#6b7280"


class Panel(NamedTuple):
    """One chart: its title, and a bar for each name."""

    title: str
    bars: Sequence[tuple[str, float]]


def svg(panels: Sequence[Panel], *, marked: str) -> str:
    """The charts as one picture; the bars of `marked` stand out."""
    parts, top = [], 0
    for panel in panels:
        parts.append(_text(0, top + 22, panel.title, weight="bold"))
        top += _TITLE
        most = max((value for _, value in panel.bars), default=0) or 1
        for name, value in panel.bars:
            length = max(1.0, value / most * (_WIDTH - _LABEL - _VALUE))
            colour = _MARKED if name == marked else _PLAIN
            parts.append(_text(_LABEL - 8, top + 15, name, anchor="end"))
            parts.append(f'<rect x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>')
            parts.append(_text(_LABEL + length + 6, top + 15, f"{value:,.0f}"))
            top += _BAR + _GAP
        top += 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" font-size="13">'
    )
    return "\n".join((head, *parts, "</svg>")) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{_INK}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'
