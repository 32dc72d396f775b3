"""Read the metadata of an OME-Zarr image: axes, levels with scale and translation, units, channel names.

Specification: NGFF (next-generation file formats) 0.4, kept in Zarr v2, and 0.5, kept in Zarr v3. Attributes are
anybody's JSON, so that each value is checked for its kind before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.slides.stated_mpp import StatedMpp, stated_mpp, unit_um

_AXES = "tczyx"
_VERSIONS = "NGFF 0.4 or 0.5"
# Of a scale or a translation in any unit; beyond it products overflow.
_LARGEST = 1e30

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class NgffLevel:
    """One dataset of a multiscale image.

    Attributes:
        path: of its array within the group.
        scale_xy: length of a pixel in x and y, in units of the axes.
        translation_xy: where the centre of its first pixel lies, in units of the axes.
    """

    path: str
    scale_xy: tuple[float, float]
    translation_xy: tuple[float, float]


@dataclass(frozen=True)
class NgffImage:
    """One multiscale image.

    Attributes:
        name: as the metadata give it; may be empty.
        axes: one letter for each, of `tczyx`, in the order of the arrays' dimensions.
        unit_xy: units of x and y as written; empty where there is none.
        levels: in the order of the metadata.
        channels: labels of the channels; empty where there are none.
    """

    name: str
    axes: str
    unit_xy: tuple[str, str]
    levels: tuple[NgffLevel, ...]
    channels: tuple[str, ...]

    @property
    def mpp(self) -> StatedMpp:
        """The um per pixel of the first level, which is unknown without a unit."""
        units = [unit_um(unit) for unit in self.unit_xy]
        scale_xy = self.levels[0].scale_xy
        x_um, y_um = (None if um is None else um * scale for um, scale in zip(units, scale_xy, strict=True))
        if x_um is None or y_um is None:
            written = " and ".join(dict.fromkeys(repr(unit) for unit in self.unit_xy if unit))
            unit = f"the unit {written}" if written else "no unit"
            return StatedMpp(remark=f"a scale of {scale_xy[0]:g} with {unit} in the file")
        return stated_mpp(x_um, y_um)


def own_attributes(attributes: Attributes) -> Attributes:
    """Return what NGFF keeps in the attributes of a group: 0.5 has it under a separate key."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def images_of_group(attributes: Attributes, file: Path | str) -> list[NgffImage]:
    """Return the multiscale images of a group's attributes.

    Raises:
        StatedError: if one of them is not what the specification asks for.
    """
    own = own_attributes(attributes)
    found = own.get("multiscales")
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise StatedError(file=file, expected="multiscales, a list of images", found=_short(found))
    return [_image(item, own, file) for item in found]


def _image(multiscale: Attributes, own: Attributes, file: Path | str) -> NgffImage:
    version = multiscale.get("version", own.get("version"))
    axes = multiscale.get("axes")
    if not isinstance(axes, list) or not all(isinstance(axis, dict) and axis.get("name") for axis in axes):
        found = "none" if axes is None else _short(axes)
        in_version = f" in version {version}" if version else ""
        raise StatedError(file=file, expected=f"axes with names ({_VERSIONS})", found=f"{found}{in_version}")
    letters = ["c" if axis.get("type") == "channel" else str(axis["name"]).lower() for axis in axes]
    if sorted(letters) != sorted(set(letters)) or not {"x", "y"} <= set(letters) <= set(_AXES):
        raise StatedError(file=file, expected="axes y and x, and of c, t and z each once", found=", ".join(letters))
    datasets = multiscale.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise StatedError(file=file, expected="datasets, a list of levels", found=_short(datasets))
    common = multiscale.get("coordinateTransformations")
    levels = tuple(_level(item, i, common, letters, file) for i, item in enumerate(datasets))
    units = {letter: str(axis.get("unit") or "") for letter, axis in zip(letters, axes, strict=True)}
    name = str(multiscale.get("name") or "").strip("/")
    return NgffImage(name, "".join(letters), (units["x"], units["y"]), levels, _channels(own))


def _level(dataset: object, index: int, common: object, axes: Sequence[str], file: Path | str) -> NgffLevel:
    """Return one level with its own transformations and then those of all levels."""
    if not isinstance(dataset, dict) or not isinstance(dataset.get("path"), str):
        raise StatedError(file=file, expected=f"the path of dataset {index}", found=_short(dataset))
    where = f"dataset {dataset['path']}"
    own = dataset.get("coordinateTransformations")
    if not isinstance(own, list) or not any(isinstance(x, dict) and x.get("type") == "scale" for x in own):
        found = "none" if own is None else _short(own)
        raise StatedError(file=file, expected=f"a scale of {where} ({_VERSIONS})", found=found)
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    for step in [*own, *(common if isinstance(common, list) else [])]:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "scale":
            factors = _numbers(step, "scale", len(axes), where, file)
            scale = [a * b for a, b in zip(scale, factors, strict=True)]
            translation = [a * b for a, b in zip(translation, factors, strict=True)]
        elif kind == "translation":
            shifts = _numbers(step, "translation", len(axes), where, file)
            translation = [a + b for a, b in zip(translation, shifts, strict=True)]
        elif kind != "identity":
            raise StatedError(file=file, expected=f"scale and translation only, of {where}", found=_short(step))
    x, y = axes.index("x"), axes.index("y")
    if not (scale[x] > 0 and scale[y] > 0):
        raise StatedError(file=file, expected=f"a scale above 0 of {where}", found=f"{scale[x]:g}, {scale[y]:g}")
    return NgffLevel(dataset["path"], (scale[x], scale[y]), (translation[x], translation[y]))


def _numbers(step: Attributes, kind: str, count: int, where: str, file: Path | str) -> list[float]:
    values = step.get(kind)
    given = values if isinstance(values, list) else []
    numbers = [float(x) for x in given if type(x) in (int, float) and abs(x) < _LARGEST]
    if len(numbers) != count or len(given) != count:
        raise StatedError(file=file, expected=f"{count} numbers as {kind} of {where}", found=_short(values))
    return numbers


def _channels(own: Attributes) -> tuple[str, ...]:
    """Return the labels of `omero`, with single spaces; empty where it names none."""
    omero = own.get("omero")
    listed = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(listed, list):
        return ()
    names = (item.get("label") if isinstance(item, dict) else None for item in listed)
    return tuple(" ".join(name.split()) if isinstance(name, str) else "" for name in names)


def _short(value: object) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
