"""A plot of loss against size, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping

WIDTH, HEIGHT, MARGIN = 720, 420, 60
COLOURS = {"tilepress": "#c2410c", "llama.cpp": "#1d4ed8"}


def plot(points: Mapping[str, tuple[int, float]]) -> str:
    """points: name -> (bytes, KL divergence in nats). Bytes on a linear axis, KL on a logarithmic one.

    ValueError without any point.
    """
    if not points:
        raise ValueError("nothing to plot: no row of a whole model was measured")
    sizes = [size / 1e6 for size, _ in points.values()]
    left, right = math.floor(min(sizes) / 10) * 10, math.ceil(max(sizes) / 10) * 10
    bottom = math.floor(math.log10(min(kl for _, kl in points.values())))
    top = math.ceil(math.log10(max(kl for _, kl in points.values())))

    def x(megabytes: float) -> float:
        return MARGIN + (megabytes - left) / (right - left) * (WIDTH - 2 * MARGIN)

    def y(kl: float) -> float:
        return HEIGHT - MARGIN - (math.log10(kl) - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for megabytes in range(left, right + 1, 10):
        parts.append(_line(x(megabytes), MARGIN, x(megabytes), HEIGHT - MARGIN))
        parts.append(_text(x(megabytes), HEIGHT - MARGIN + 18, f"{megabytes} MB", "middle"))
    for decade in range(bottom, top + 1):
        parts.append(_line(MARGIN, y(10.0**decade), WIDTH - MARGIN, y(10.0**decade)))
        parts.append(_text(MARGIN - 8, y(10.0**decade) + 4, f"{10.0**decade:g}", "end"))
    for name, (size, kl) in points.items():
        colour = next((c for maker, c in COLOURS.items() if maker in name), "black")
        label = name.split(": ")[-1].removeprefix("llama.cpp ").removeprefix("tilepress, ")
        parts.append(f'<circle cx="{x(size / 1e6):.1f}" cy="{y(kl):.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(x(size / 1e6) + 7, y(kl) + 4, label, "start", colour))
    for line, (maker, colour) in enumerate(COLOURS.items()):
        parts.append(_text(WIDTH - MARGIN, 24 + 16 * line, maker, "end", colour))
    parts.append(_text(MARGIN, 24, "KL divergence from the float model, nats a token", "start"))
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
