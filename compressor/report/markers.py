"""The shapes that stand for models in a chart, so that nobody needs to tell colours apart."""

from __future__ import annotations

import math

# How far each shape reaches from its centre, in radii of a circle of the same area.
REACH = {"circle": 1.0, "square": 0.89, "diamond": 1.26, "triangle": 1.56, "cross": 1.0}
SHAPES = ("circle", "square", "diamond", "triangle")  # of the runs of a comparison, in turn
# Of what a single run tried.
ROLE_SHAPES = {
    "baseline": "circle",
    "pass": "square",
    "spare": "square",  # hollow
    "try": "cross",
    "final": "diamond",
}


def marker_path(shape: str, x: float, y: float, radius: float) -> str:
    """Return SVG path data of area pi * radius**2 centred on (x, y).

    A cross is two strokes without an area, `radius` long on each side.
    """
    area = math.pi * radius**2
    if shape == "circle":
        half_turn = f"a{radius:.2f},{radius:.2f} 0 1,0"
        across = f"{2 * radius:.2f},0"
        return f"M{x - radius:.2f},{y:.2f} {half_turn} {across} {half_turn} -{across} Z"
    if shape == "cross":
        h = radius * math.sqrt(0.5)
        strokes = [((-h, -h), (h, h)), ((-h, h), (h, -h))]
        return " ".join(
            f"M{x + a:.2f},{y + b:.2f} L{x + c:.2f},{y + d:.2f}" for (a, b), (c, d) in strokes
        )
    if shape == "square":
        h = math.sqrt(area) / 2
        corners = [(-h, -h), (h, -h), (h, h), (-h, h)]
    elif shape == "diamond":
        h = math.sqrt(area / 2)
        corners = [(0, -h), (h, 0), (0, h), (-h, 0)]
    else:
        side = math.sqrt(4 * area / math.sqrt(3))
        up = side / math.sqrt(3)
        corners = [(0, -up), (side / 2, up / 2), (-side / 2, up / 2)]
    return "M" + " L".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in corners) + " Z"
