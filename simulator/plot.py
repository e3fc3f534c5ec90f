"""A bar chart as SVG, by hand: one panel a situation, one bar a policy, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

_COLUMNS = 3
_PANEL_W, _ROW_H, _TITLE_H, _LABEL_W, _VALUE_W, _GAP = 330, 16, 26, 96, 56, 18
_OURS, _ORACLES, _OTHERS = "#1a7f5a", "#b08900", "#8a94a3"


def bars(title: str, names: Sequence[str], groups: Sequence[tuple[str, Sequence[float]]]) -> str:
    """`groups` are titles with a value for each name. All panels have one scale, so they can be compared."""
    values = [value for _, row in groups for value in row]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    panel_h = _TITLE_H + _ROW_H * len(names) + _GAP
    rows = ceil(len(groups) / _COLUMNS)
    width, height = _COLUMNS * (_PANEL_W + _GAP) + _GAP, 44 + rows * panel_h
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_GAP}" y="26" font-size="16">{escape(title)} (logarithmic scale, shorter is better)</text>',
    ]
    for number, (name, row) in enumerate(groups):
        x, y = _GAP + (number % _COLUMNS) * (_PANEL_W + _GAP), 44 + (number // _COLUMNS) * panel_h
        parts += _panel(x, y, name, list(zip(names, row, strict=True)), (low, high))
    return "\n".join((*parts, "</svg>", ""))


def _panel(x: int, y: int, title: str, row: Sequence[tuple[str, float]], scale: tuple[int, int]) -> list[str]:
    low, high = scale
    room = _PANEL_W - _LABEL_W - _VALUE_W
    parts = [f'<text x="{x}" y="{y + 15}" font-weight="bold">{escape(title)}</text>']
    for number, (name, value) in enumerate(row):
        top = y + _TITLE_H + number * _ROW_H
        length = max((log10(value) - low) / (high - low) * room, 1.0)
        parts += [
            f'<text x="{x + _LABEL_W - 6}" y="{top + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{x + _LABEL_W}" y="{top + 2}" width="{length:.1f}" height="{_ROW_H - 5}"',
            f' fill="{_color(name)}"/>',
            f'<text x="{x + _LABEL_W + length + 4:.1f}" y="{top + 11}">{value:.2f}</text>',
        ]
    return parts


def _color(name: str) -> str:
    if name == "predicted":
        return _OURS
    return _ORACLES if "oracle" in name else _OTHERS
