"""Share what readers have in common: closing in a `with` block, and answers without JPEG tiles to copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context manager that closes itself, however its block is left."""

    @abstractmethod
    def close(self) -> None:
        """Release the file; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WithoutJpegTiles(Closing):
    """A slide whose tiles cannot be copied as they are stored; see `pipeline.slides.base.Slide`."""

    def is_corrupt(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Return False: what cannot be decoded is raised."""
        return False

    def jpeg_transform(self, level: int) -> int | None:
        """Return None: there are no JPEG tiles to copy."""
        return None
