"""Read elastix parameter files: linear transforms of the plane and what they are composed with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats
from pipeline.registration.transform import checked_affine

_ENTRY = re.compile(r"^\s*\(\s*(\w+)\s+(.*?)\s*\)\s*(?://.*)?$", re.MULTILINE)
_MOST_COMPOSED = 8
_EXPECTED = "an affine, similarity, Euler or translation transform of elastix"
Parameters = dict[str, list[str]]


def is_elastix(path: Path) -> bool:
    """Return whether a text file begins as elastix's parameter files do."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        first = next((line for line in stream if line.strip() and not line.lstrip().startswith("//")), "")
    return bool(_ENTRY.match(first))


def read_elastix(path: Path) -> tuple[Floats, tuple[str, ...]]:
    """Return the affine part (2, 3) of an elastix parameter file, and what was assumed about it.

    elastix carries points of the fixed image to the moving image; the H&E is read as fixed, the unit as um.

    Raises:
        StatedError: if it, or a transform that it names as initial, is not linear, not of the plane or absent.
    """
    affine = _composed(path, _MOST_COMPOSED)
    return checked_affine(affine[:2], path), ("read as elastix parameters: the H&E as fixed image, in um",)


def _composed(path: Path, left: int) -> Floats:
    """Return the matrix (3, 3) of a file and its initial transforms, which are applied first."""
    known = _entries(path)
    own = _matrix(known, path)
    initial = " ".join(known.get("InitialTransformParameterFileName", ["NoInitialTransform"]))
    initial = " ".join(known.get("InitialTransformParametersFileName", [initial]))
    if initial == "NoInitialTransform":
        return own
    how = " ".join(known.get("HowToCombineTransforms", ["Compose"]))
    if how != "Compose" or left == 0:
        raise StatedError(file=path, expected="transforms that elastix composes, at most eight", found=how)
    before = path.parent / Path(initial).name
    if not before.is_file():
        raise StatedError(file=path, expected=f"its initial transform {before.name} beside it", found="no such file")
    return own @ _composed(before, left - 1)


def _entries(path: Path) -> Parameters:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    return {key: values.replace('"', "").split() for key, values in _ENTRY.findall(text)}


def _matrix(known: Parameters, path: Path) -> Floats:
    kind = " ".join(known.get("Transform", ["no transform"]))
    values = _numbers(known, "TransformParameters", path)
    centre = _numbers(known, "CenterOfRotationPoint", path) if "CenterOfRotationPoint" in known else np.zeros(2)
    linear: Floats
    if kind == "AffineTransform" and len(values) == 6:
        linear, shift = values[:4].reshape(2, 2), values[4:]
    elif kind == "EulerTransform" and len(values) == 3:
        linear, shift = _rotation(values[0]), values[1:]
    elif kind == "SimilarityTransform" and len(values) == 4:
        linear, shift = values[0] * _rotation(values[1]), values[2:]
    elif kind == "TranslationTransform" and len(values) == 2:
        linear, shift = np.eye(2), values
    else:
        expected = f"{_EXPECTED} in the plane; of others a displacement field (transformix -def all)"
        raise StatedError(file=path, expected=expected, found=f"{kind} of {len(values)} parameters")
    if len(centre) != 2:
        raise StatedError(file=path, expected=_EXPECTED, found=f"a centre of rotation in {len(centre)} dimensions")
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = shift + centre - linear @ centre
    return matrix


def _rotation(angle: float) -> Floats:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _numbers(known: Parameters, key: str, path: Path) -> Floats:
    try:
        values = np.array([float(text) for text in known.get(key, ())])
    except ValueError as error:
        raise StatedError(file=path, expected=f"numbers in {key}", found=str(error)) from None
    if not np.isfinite(values).all():
        raise StatedError(file=path, expected=f"finite numbers in {key}", found=f"{values.tolist()!r:.120}")
    return values
