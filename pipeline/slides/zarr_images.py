"""List the images of an OME-Zarr folder: which one is the slide, and the arrays of its levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore

from pipeline.elsewhere.address import expanded
from pipeline.elsewhere.source import check_packages, options_of
from pipeline.errors import StatedError
from pipeline.limits import MAX_MARKERS
from pipeline.slides.base import DTYPES, MAX_SEGMENT_BYTES, Pixels
from pipeline.slides.ngff import NgffImage, images_of_group, own_attributes
from pipeline.slides.pyramid import SAME_UM
from pipeline.slides.tiff_images import RIVAL_AREA
from pipeline.slides.zarr_blosc import checked
from pipeline.zarr_reading import reading_zarr

_MOST_IMAGES = 1000
# A slide of a million pixels a side in chunks of 256 px has fewer.
_MOST_CHUNKS = 2**24

Box = tuple[slice, slice, slice]
# A folder here, or the address of one elsewhere.
Place = Path | str


@dataclass(frozen=True, eq=False)
class LevelArray:
    """One array of an image, seen as (c, y, x) whatever the order of its axes.

    Attributes:
        name: path of the array within the folder.
        array: as zarr opens it.
        axes: a letter for each of its dimensions.
    """

    name: str
    array: zarr.Array[Any]
    axes: str

    @property
    def shape_cyx(self) -> tuple[int, int, int]:
        """Channels, height and width; 1 channel where there is no such axis."""
        return self._along(self.array.shape)

    @property
    def chunk_cyx(self) -> tuple[int, int, int]:
        """Channels, height and width of what is decoded at once: a chunk, of a sharded array the one within a shard."""
        return self._along(self.array.chunks)

    @property
    def size_xy(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.shape_cyx[2], self.shape_cyx[1]

    @property
    def dtype(self) -> str:
        """Numpy name of the type in which pixels are read."""
        return DTYPES[np.dtype(self.array.dtype).name]

    def read(self, box_cyx: Box) -> Pixels:
        """Return the pixels (c, y, x) of a box.

        Raises:
            ValueError: if a chunk cannot be read or decoded.
        """
        wanted = dict(zip("cyx", box_cyx, strict=True))
        with reading_zarr():
            found = np.asarray(self.array[tuple(wanted.get(axis, slice(0, 1)) for axis in self.axes)])
        order = [self.axes.index(axis) for axis in "tzcyx" if axis in self.axes]
        ordered = found.transpose(order)
        return ordered.reshape(-1, *ordered.shape[-2:]).astype(self.dtype, copy=False)

    def _along(self, sides: Sequence[int]) -> tuple[int, int, int]:
        c, y, x = (int(sides[self.axes.index(axis)]) if axis in self.axes else 1 for axis in "cyx")
        return c, y, x


@dataclass(frozen=True, eq=False)
class ZarrImage:
    """One image of a folder.

    Attributes:
        index: its place in the folder, from 0.
        described: what its metadata say.
        levels: its arrays, in the order of the metadata.
        labels: names of the label images that lie in its group.
    """

    index: int
    described: NgffImage
    levels: tuple[LevelArray, ...]
    labels: tuple[str, ...]

    def __str__(self) -> str:
        width, height = self.levels[0].size_xy
        name = self.described.name
        return f"{self.index}{f' ({name})' if name else ''}: {width} x {height} px"

    @property
    def area(self) -> int:
        """Pixels of one channel of the first level."""
        width, height = self.levels[0].size_xy
        return width * height

    def rivals(self, other: ZarrImage) -> bool:
        """Return whether it may be meant as well as another, larger image: by its um per pixel, or else by its size."""
        one, two = self.described.mpp.um, other.described.mpp.um
        if one is not None and two is not None:
            return abs(one - two) <= SAME_UM * two
        return self.area >= RIVAL_AREA * other.area


def images_of(path: Place) -> list[ZarrImage]:
    """Return the images of a folder: of its group, or of the groups 0, 1, … in it, as bioformats2raw writes them.

    Raises:
        StatedError: if it holds none, or a plate of wells, or if its metadata or arrays are not what NGFF asks for.
    """
    try:
        with reading_zarr():
            root = zarr.open(opened_store(path), mode="r")
            attributes = root.attrs.asdict()
    except ValueError as error:
        raise StatedError(file=path, expected="a Zarr group that can be opened", found=str(error)) from None
    expected = "a group with multiscales (OME-Zarr)"
    if isinstance(root, zarr.Array):
        raise StatedError(file=path, expected=expected, found="an array alone")
    own = own_attributes(attributes)
    if "multiscales" in own:
        return _images(root, "", path, 0)
    for kind, description in (
        ("plate", "a plate of wells"),
        ("well", "a well of fields"),
        ("labels", "a group of labels"),
    ):
        if kind in own:
            raise StatedError(
                file=path, expected=f"one image: name the folder of one within {description}", found=description
            )
    found: list[ZarrImage] = []
    for number in range(_MOST_IMAGES):
        group = _member(root, str(number), path)
        if not isinstance(group, zarr.Group) or "multiscales" not in own_attributes(group.attrs.asdict()):
            break
        found += _images(group, f"{number}/", path, len(found))
    if not found:
        names = ", ".join(sorted(own)[:6])
        raise StatedError(file=path, expected=expected, found=f"a group with {names or 'no attributes'}")
    return found


def opened_store(path: Place) -> Path | Store:
    """Return what zarr reads a folder from: its path, or a store of fsspec for one elsewhere.

    Raises:
        StatedError: if an address names a variable that is not set, or a package is missing.
    """
    if isinstance(path, Path):
        return path
    url = expanded(path)
    check_packages(path, url)
    return FsspecStore.from_url(url, storage_options=options_of(url), read_only=True)


def chosen_image(images: Sequence[ZarrImage], wanted: str, file: Place) -> ZarrImage:
    """Return the image that the sheet names, by name or number, or else the largest one.

    Raises:
        StatedError: if there is none of that name, or several, or none is named and several may be meant.
    """
    listed = "; ".join(map(str, images))
    if wanted:
        named = [x for x in images if x.described.name == wanted] or [x for x in images if str(x.index) == wanted]
        if len(named) != 1:
            raise StatedError(file=file, expected=f"one image named or numbered {wanted}", found=listed)
        return named[0]
    largest = max(images, key=lambda image: image.area)
    if any(image.rivals(largest) for image in images if image is not largest):
        expected = "one image, or its name or number in the sheet (sparse_image, dense_image)"
        raise StatedError(file=file, expected=expected, found=f"{len(images)} images: {listed}")
    return largest


def _images(group: zarr.Group, prefix: str, path: Place, first: int) -> list[ZarrImage]:
    with reading_zarr():
        attributes = group.attrs.asdict()
    found = []
    for index, described in enumerate(images_of_group(attributes, f"{path}/{prefix}" if prefix else path), start=first):
        levels = tuple(_level(group, level.path, prefix, described.axes, path) for level in described.levels)
        _check_order(levels, described, path)
        found.append(ZarrImage(index, described, levels, _labels(group, path)))
    return found


def _level(group: zarr.Group, name: str, prefix: str, axes: str, path: Place) -> LevelArray:
    array = _member(group, name, path)
    name = f"{prefix}{name}"
    if not isinstance(array, zarr.Array):
        raise StatedError(file=path, expected=f"an array {name}", found="none" if array is None else "a group")
    if len(array.shape) != len(axes):
        found = f"{len(array.shape)} in {name}"
        raise StatedError(file=path, expected=f"{len(axes)} dimensions, for the axes {', '.join(axes)}", found=found)
    stacked = [f"{axis} of length {n}" for axis, n in zip(axes, array.shape, strict=True) if axis in "tz" and n != 1]
    if stacked:
        expected = "an image of one plane (t and z of length 1): project or cut it first"
        raise StatedError(file=path, expected=expected, found=" and ".join(stacked))
    kind = np.dtype(array.dtype).name
    if kind not in DTYPES:
        expected = f"pixels of type {', '.join(DTYPES)}: write it again as uint16 or float32"
        raise StatedError(file=path, expected=expected, found=f"{kind} in {name}")
    level = LevelArray(name, array, axes)
    if min(level.shape_cyx) < 1 or level.shape_cyx[0] > MAX_MARKERS:
        expected = f"pixels in 1 to {MAX_MARKERS} channels"
        raise StatedError(file=path, expected=expected, found=f"an array {name} of shape {tuple(array.shape)}")
    largest = prod(int(side) for side in array.chunks) * np.dtype(array.dtype).itemsize
    if largest > MAX_SEGMENT_BYTES:
        found = f"chunks of {tuple(array.chunks)} in {name}"
        raise StatedError(file=path, expected="chunks below 2 GiB", found=found)
    (_, *sides), (_, *steps) = level.shape_cyx, level.chunk_cyx
    count = prod(-(-side // step) for side, step in zip(sides, steps, strict=True))
    if count > _MOST_CHUNKS:
        found = f"{count} of {steps[1]} x {steps[0]} px in {name}"
        raise StatedError(file=path, expected=f"at most {_MOST_CHUNKS} chunks in a channel", found=found)
    return replace(level, array=checked(array))


def _member(group: zarr.Group, name: str, path: Place) -> object:
    """Return an array or group of a group; None where there is none of that name."""
    try:
        with reading_zarr():
            return group.get(name)
    except ValueError as error:
        raise StatedError(file=path, expected=f"{name} to be an array or group of Zarr", found=str(error)) from None


def _labels(group: zarr.Group, path: Place) -> tuple[str, ...]:
    labels = _member(group, "labels", path)
    if not isinstance(labels, zarr.Group):
        return ()
    listed = own_attributes(labels.attrs.asdict()).get("labels")
    return tuple(str(name) for name in listed) if isinstance(listed, list) else ()


def _check_order(levels: Sequence[LevelArray], described: NgffImage, path: Place) -> None:
    """Refuse levels of which a later one is finer, by its size or its scale, or has other channels or pixels."""
    for i in range(1, len(levels)):
        finer, level = levels[i - 1], levels[i]
        is_ordered = all(a >= b for a, b in zip(finer.size_xy, level.size_xy, strict=True))
        scales = [described.levels[k].scale_xy for k in (i - 1, i)]
        if not is_ordered or any(a > b for a, b in zip(*scales, strict=True)):
            order = [
                f"{x.name} of {x.size_xy[0]} x {x.size_xy[1]} px with scale {scale[0]:g}"
                for x, scale in zip((finer, level), scales, strict=True)
            ]
            raise StatedError(
                file=path, expected="levels from the finest to the coarsest", found=" before ".join(order)
            )
        if (finer.shape_cyx[0], finer.dtype) != (level.shape_cyx[0], level.dtype):
            channels = [f"{x.shape_cyx[0]} of {x.dtype} in {x.name}" for x in (finer, level)]
            raise StatedError(file=path, expected="the same channels in every level", found=", ".join(channels))
