"""Look up the kinds of dense side by name."""

from __future__ import annotations

from pipeline.errors import StatedError
from pipeline.sheet import DENSE_KINDS
from pipeline.slides.kinds.base import DenseKind, PointKind
from pipeline.slides.kinds.brightfield import Brightfield
from pipeline.slides.kinds.cells import Cells
from pipeline.slides.kinds.counts import Counts
from pipeline.slides.kinds.fluorescence import Fluorescence
from pipeline.slides.kinds.mask import Mask

# The sheet knows the names alone, for it imports nothing; tests/kinds checks that both agree.
_KINDS: dict[str, DenseKind] = {kind.name: kind for kind in (Fluorescence(), Brightfield(), Mask(), Counts(), Cells())}


def kind_named(name: str) -> DenseKind:
    """Return the kind of that name.

    Raises:
        StatedError: for a name that no kind has.
    """
    if name not in _KINDS:
        raise StatedError(expected=f"a kind of dense side ({', '.join(DENSE_KINDS)})", found=repr(name))
    return _KINDS[name]


def point_kinds() -> tuple[PointKind, ...]:
    """Return the kinds whose files are tables of points and not images."""
    return tuple(kind for kind in _KINDS.values() if isinstance(kind, PointKind))
