"""Write the SVG that the figures need: escaped elements, and axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup, escape

MARKS = ("circle", "square", "triangle", "diamond")


def tag(name: str, *children: Markup | str, **attributes: str | float) -> Markup:
    """Return one element, everything escaped; `class_` and `stroke_width` become `class` and `stroke-width`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")


def figure(width: float, height: float, name: str, *children: Markup, class_: str = "") -> Markup:
    """Return an SVG picture that scales with its column and says what it is to a screen reader."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        role="img",
        aria_label=name,
        class_=f"figure {class_}".strip(),
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """Return words at a baseline position."""
    return tag("text", content, x=x, y=y, class_=class_ or "label", text_anchor=anchor)


def mark(kind: int, x: float, y: float, size: float, class_: str) -> Markup:
    """Return a data point; `kind` chooses the shape, so that colour is never the only difference."""
    shape = MARKS[kind % len(MARKS)]
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=size, class_=class_)
    if shape == "square":
        return tag("rect", x=x - size * 0.9, y=y - size * 0.9, width=size * 1.8, height=size * 1.8, class_=class_)
    corners = (
        [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)] if shape == "triangle" else [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]
    )
    points = " ".join(f"{_number(x + dx * size)},{_number(y + dy * size)}" for dx, dy in corners)
    return tag("polygon", points=points, class_=class_)


@dataclass(frozen=True)
class Axis:
    """Maps values to positions along one axis.

    Attributes:
        low: value at `start`.
        high: value at `end`.
        start: position in the picture.
        end: position in the picture.
        logarithmic: whether equal ratios take equal space.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; values outside land outside."""
        shape: Callable[[float], float] = math.log10 if self.logarithmic else float
        low, high = shape(self.low), shape(self.high)
        return self.start + (shape(value) - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values inside the axis, about that many."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps: tuple[int, ...] = (1,) if len(decades) > 4 else (1, 2, 5)
            return [
                step * 10.0**power for power in decades for step in steps if self.low <= step * 10.0**power <= self.high
            ]
        step = round_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below `rough`."""
    if rough <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def linear(values: list[float], start: float, end: float, *, with_zero: bool = False) -> Axis:
    """Return an axis that holds all values with a little room at both ends."""
    known = [value for value in values if math.isfinite(value)] + ([0.0] if with_zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = (high - low) * 0.06 or max(abs(high) * 0.1, 0.1)
    return Axis(low - room, high + room, start, end)


def tick_label(value: float) -> str:
    """Return a tick's value without superfluous digits, with a true minus sign."""
    if value and (abs(value) >= 10000 or abs(value) < 0.0001):
        shown = f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    else:
        shown = f"{value:.10g}"
    return shown.replace("-", "−") if "e" not in shown else shown


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}".rstrip("0").rstrip(".")
