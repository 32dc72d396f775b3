"""Write and read ITK transform files, for tools that read ITK and of tools that write it.

An ITK transform carries points of the fixed image to the moving image. Sparse is fixed and dense is moving here, so
an ITK resampling with the file lays the dense image onto the H&E. Physical units are um.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import SimpleITK

from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.registration.displacement import Floats
from pipeline.registration.sampled import fitted_affine, sampled
from pipeline.registration.transform import Transform, checked_affine

# SimpleITK carries no types.
sitk: Any = SimpleITK

_LINEAR_TOLERANCE_UM = 1e-6


def write_itk(path: Path, transform: Transform) -> None:
    """Write the forward map as an ITK composite (`.h5`), in the layout of itk::HDF5TransformIO.

    ITK applies the last added part first, so A p + b + D(p) is written as the displacement A^-1 D(p) followed by
    the affine part. Beyond its grid an ITK displacement is zero, where ours keeps the value at the edge.
    SimpleITK would stamp the file with the time of day; equal maps shall give equal bytes.
    """
    matrix, shift = transform.affine[:, :2], transform.affine[:, 2]
    parts = [("AffineTransform_double_2_2", np.zeros(2), np.concatenate([matrix.ravel(), shift]))]
    grid = transform.forward
    if grid is not None:
        values = np.einsum("ij,jyx->yxi", np.linalg.inv(matrix), grid.values_um.astype(np.float64))
        size = [values.shape[1], values.shape[0]]
        geometry = np.array([*size, *grid.origin_um, grid.spacing_um, grid.spacing_um, 1, 0, 0, 1], np.float64)
        parts.append(("DisplacementFieldTransform_double_2_2", geometry, values.ravel()))
    with finished(path) as temporary, h5py.File(temporary, "w") as file:
        for name, text in (("ITKVersion", "5.4.0"), ("HDFVersion", "1.12.1"), ("OSName", ""), ("OSVersion", "")):
            _write_text(file, name, text)
        _write_text(file, "TransformGroup/0/TransformType", "CompositeTransform_double_2_2")
        for number, (kind, fixed, free) in enumerate(parts, start=1):
            group = file.create_group(f"TransformGroup/{number}")
            _write_text(group, "TransformType", kind)
            group.create_dataset("TransformFixedParameters", data=fixed)
            packing = {"compression": "gzip", "shuffle": True} if free.size > 64 else {}
            group.create_dataset("TransformParameters", data=free, **packing)


def _write_text(group: Any, name: str, text: str) -> None:
    group.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"))


def read_itk(path: Path) -> Transform:
    """Return the map of an ITK transform file, fixed (sparse) to moving (dense), both in um.

    An affine map is taken exactly; any other is sampled on the 16-um grid over its own domain.

    Raises:
        StatedError: if SimpleITK cannot read it, or it is not a map of the plane, or its domain is unknown.
    """
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise StatedError(file=path, expected="an ITK transform", found=str(error).splitlines()[-1]) from None
    if transform.GetDimension() != 2:
        raise StatedError(
            file=path, expected="a transform of the plane", found=f"{transform.GetDimension()} dimensions"
        )
    domain = _domain(transform, path)
    if domain is None:
        return Transform(checked_affine(_affine_at(transform, np.zeros(2), 1000.0, path), path))
    # Rounding of the grid may put its last nodes just outside the file's own domain, where ITK knows no displacement.
    affine = checked_affine(fitted_affine(lambda points: _mapped(transform, points), *domain), path)
    return sampled(lambda points: _mapped(transform, points), np.stack(domain), affine)


def _mapped(transform: Any, points: Floats) -> Floats:
    return np.array([transform.TransformPoint(point) for point in points.tolist()], np.float64)


def _affine_at(transform: Any, centre: Floats, step: float, path: Path) -> Floats:
    """Return the matrix of a transform that is linear, probed at three points and checked at others."""
    origin, along_x, along_y = _mapped(transform, centre + step * np.array([[0.0, 0], [1, 0], [0, 1]]))
    matrix = np.stack([along_x - origin, along_y - origin], axis=1) / step
    affine = np.column_stack([matrix, origin - matrix @ centre])
    probes = centre + step * np.array([[3.0, 7.0], [-5.0, 2.0], [20.0, -11.0]])
    if np.abs(_mapped(transform, probes) - probes @ matrix.T - affine[:, 2]).max() > _LINEAR_TOLERANCE_UM * step:
        raise StatedError(
            file=path,
            expected="an affine, B-spline or displacement-field transform",
            found=f"{transform.GetName()} without a domain",
        )
    return affine


def _domain(transform: Any, path: Path) -> tuple[Floats, Floats] | None:
    """Return lower and upper corner of where a transform's first non-linear part is known; None for a linear transform.

    Raises:
        StatedError: if a part that is applied before it cannot be inverted.
    """
    kind = transform.GetTransformEnum()
    if kind == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        before: list[Any] = []
        # The last added part is applied first.
        for number in reversed(range(composite.GetNumberOfTransforms())):
            part = composite.GetNthTransform(number)
            found = _domain(part, path)
            if found is not None:
                return _carried_back(found, before, path)
            before.append(part)
        return None
    if kind == sitk.sitkDisplacementField:
        field = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        extent = (np.array(field.GetSize(), np.float64) - 1) * field.GetSpacing()
        return _rectangle(field.GetOrigin(), extent, field.GetDirection())
    if kind == sitk.sitkBSplineTransform:
        spline = sitk.BSplineTransform(transform)
        extent = np.array(spline.GetTransformDomainPhysicalDimensions(), np.float64)
        return _rectangle(spline.GetTransformDomainOrigin(), extent, spline.GetTransformDomainDirection())
    return None


def _rectangle(origin: Any, extent: Floats, direction: Any) -> tuple[Floats, Floats]:
    """Return the rectangle around a grid of an extent (2,) in um whose axes may be flipped or turned."""
    axes = np.array(direction, np.float64).reshape(2, 2) * extent
    corners = np.array(origin, np.float64) + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ axes.T
    return corners.min(0), corners.max(0)


def _carried_back(domain: tuple[Floats, Floats], before: list[Any], path: Path) -> tuple[Floats, Floats]:
    """Return the rectangle around what linear parts, the first applied first, carry onto a domain."""
    if not before:
        return domain
    low, high = domain
    corners = np.array([low, (high[0], low[1]), (low[0], high[1]), high])
    for part in reversed(before):
        affine = checked_affine(_affine_at(part, np.zeros(2), 1000.0, path), path)
        corners = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    return corners.min(0), corners.max(0)
