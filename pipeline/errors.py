"""Errors that a user can act on: one line that says where, what was expected and what was found."""

from __future__ import annotations

from os import PathLike

# What third-party parsers raise on input that makes no sense.
BROKEN_INPUT = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, OSError,
    MemoryError,
)  # fmt: skip


class StatedError(Exception):
    """A failure whose cause lies in the input, told in one line; the command line exits with 1.

    Args:
        expected: what the program needed.
        found: what it met instead.
        slide: name of the slide, where one is concerned.
        file: file or folder, where one is concerned.
    """

    def __init__(
        self,
        *,
        expected: str,
        found: str,
        slide: str | None = None,
        file: str | PathLike[str] | None = None,
    ) -> None:
        self.expected = expected
        self.found = found
        self.slide = slide
        self.file = file
        super().__init__(str(self))

    def __str__(self) -> str:
        where = []
        if self.slide:
            where.append(f"slide {self.slide}")
        if self.file is not None:
            where.append(f"file {self.file}")
        place = ", ".join(where)
        text = f"expected {self.expected}, found {self.found}"
        return " ".join(f"{place}: {text}".split()) if place else " ".join(text.split())
