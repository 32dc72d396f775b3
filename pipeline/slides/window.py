"""Clip a window to the slide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Where the part of a window that lies on the slide begins and ends.

    Attributes:
        start_xy: its first pixel, counted from the window's corner.
        stop_xy: the pixel after its last one, counted from the window's corner.
        corner_xy: its first pixel, counted from the slide's corner.
    """

    start_xy: tuple[int, int]
    stop_xy: tuple[int, int]
    corner_xy: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """Whether the window lies wholly outside."""
        return self.stop_xy[0] <= self.start_xy[0] or self.stop_xy[1] <= self.start_xy[1]


def clip_window(corner_xy: tuple[int, int], size_xy: tuple[int, int], slide_xy: tuple[int, int]) -> Window:
    """Return the part of a window of `size_xy` at `corner_xy` that lies on a slide, or level, of size `slide_xy`."""
    (x, y), (width, height) = corner_xy, size_xy
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, slide_xy[0]), min(y + height, slide_xy[1])
    return Window((left - x, top - y), (right - x, bottom - y), (left, top))
