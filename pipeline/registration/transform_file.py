"""Read a transform from any supported file; name and first bytes show the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats
from pipeline.registration.elastix import is_elastix, read_elastix
from pipeline.registration.given_table import LandmarkTable, MppPair, is_point_table, read_point_table
from pipeline.registration.itk import read_itk
from pipeline.registration.matrix import read_matrix
from pipeline.registration.point_pairs import contradictions, covered_share, through_points
from pipeline.registration.transform import Transform, read_zarr_transform

_ITK_TEXT = b"#Insight Transform File"
_LEAST_COVERED = 0.25


@dataclass(frozen=True, eq=False)
class GivenTransform:
    """A transform that was not computed here.

    Attributes:
        transform: the map, sparse um to dense um.
        notes: what was assumed about the file, a sentence each.
        points: the pairs of points that it was made of; None for other files.
    """

    transform: Transform
    notes: tuple[str, ...] = ()
    points: LandmarkTable | None = None

    def doubts(self, extent_um: Floats) -> tuple[str, ...]:
        """Return what in the file itself speaks against it, a sentence each.

        Args:
            extent_um: (2, 2), lower and upper corner of the sparse slide.
        """
        if self.points is None:
            return ()
        covered = covered_share(self.points, extent_um)
        thin = f"the {len(self.points.lines)} pairs of points span {covered:.0%} of the H&E; the rest is extrapolated"
        return contradictions(self.points) + ((thin,) if covered < _LEAST_COVERED else ())


def read_transform(path: Path, mpp: MppPair | None = None) -> Transform:
    """Return the transform of a file; see `read_given`."""
    return read_given(path, mpp).transform


def read_given(path: Path, mpp: MppPair | None = None) -> GivenTransform:
    """Return the transform of a file, with what was assumed about it.

    Our `.zarr`; an ITK file (`.h5`, `.tfm`, `.txt`); an elastix parameter file (`.txt`); pairs of points (`.csv` with
    named columns, Xenium Explorer's keypoints, BigWarp's landmarks); a matrix (`.csv`, `.txt`, `.json`, `.npy`).

    Args:
        path: the file.
        mpp: um per level-0 pixel of both sides, for files in pixels; None where it is not known.

    Raises:
        StatedError: if it is absent, broken, not of these kinds, or no map between two planes.
    """
    if not path.exists():
        raise StatedError(file=path, expected="a transform", found="no such file")
    suffix = path.suffix.lower()
    if suffix == ".zarr" or path.is_dir():
        return GivenTransform(read_zarr_transform(path))
    if suffix in (".pickle", ".pkl"):
        # Reading one runs whatever its maker put in.
        raise StatedError(
            file=path, expected="a transform; of a VALIS result, pairs of points (docs/transforms.md)", found="a pickle"
        )
    if suffix in (".h5", ".hdf5", ".tfm") or (suffix == ".txt" and _begins_with(path, _ITK_TEXT)):
        return GivenTransform(read_itk(path))
    if suffix == ".txt" and is_elastix(path):
        return _affine(*read_elastix(path))
    if suffix in (".csv", ".tsv", ".txt") and is_point_table(path):
        table = read_point_table(path, mpp)
        return GivenTransform(through_points(table, path), table.notes, table)
    return _affine(*read_matrix(path, mpp))


def given_transform(text: str, mpp: MppPair | None = None) -> GivenTransform | None:
    """Return the transform that a sheet names: None where it is to be computed, `identity`, or a file.

    Raises:
        StatedError: see `read_given`.
    """
    if not text:
        return None
    return GivenTransform(Transform.identity()) if text == "identity" else read_given(Path(text), mpp)


def _affine(affine: Floats, notes: tuple[str, ...]) -> GivenTransform:
    return GivenTransform(Transform(affine), notes)


def _begins_with(path: Path, prefix: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(prefix)) == prefix
