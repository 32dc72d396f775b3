"""Errors that a user can act on: one line that says where, what was expected and what was found."""

from __future__ import annotations

from os import PathLike

# What a bug raises, and some parsers on broken files too.
_LIKE_A_BUG = (TypeError, AttributeError, AssertionError, NameError)
_PACKAGE = __name__.partition(".")[0]


def reraise_bug(error: BaseException) -> None:
    """Raise the error again where our own code raised it and it looks like a bug; parsers raise it on broken files.

    For handlers around parsers that read lazily, where our code and theirs alternate.
    """
    if not isinstance(error, _LIKE_A_BUG):
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
        raise error


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
