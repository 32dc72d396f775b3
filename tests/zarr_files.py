"""Small OME-Zarr images that the tests write by zarr alone, as the specification of NGFF says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from slide_files import Image

UM = "micrometer"


def write_zarr(
    path: Path,
    levels: list[Image],
    names: list[str] | None = None,
    *,
    version: str = "0.5",
    axes: str = "cyx",
    mpp: float = 0.65,
    unit: str | None = UM,
    chunk: int = 64,
    shard: int | None = None,
    translated: bool = False,
    downsamples: list[float] | None = None,
    **options: Any,
) -> Path:
    """Write the levels (C, H, W) of an image; axes t and z get length 1.

    Args:
        path: the folder of the image's group; groups above it are for the caller to write.
        levels: finest first, each half as large as the one before unless `downsamples` says otherwise.
        names: of the channels.
        version: of NGFF; 0.4 is written as Zarr v2.
        axes: their order.
        mpp: um, or units, per pixel of level 0.
        unit: of x and y.
        chunk: side of a chunk.
        shard: side of a shard, of version 0.5.
        translated: whether levels state where their first pixel lies, as averaging makes it.
        downsamples: of the levels.
        options: for `create_array`.
    """
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for index, image in enumerate(levels):
        ordered, chunks = in_axes(image, axes), sides(axes, chunk)
        extra = {"shards": sides(axes, shard)} if shard else {}
        array = group.create_array(
            str(index), shape=ordered.shape, dtype=image.dtype, chunks=chunks, **extra, **options
        )
        array[...] = ordered
        downsample = downsamples[index] if downsamples else 2.0**index
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": placed(axes, mpp * downsample, 1.0)}]
        if translated:
            steps.append({"type": "translation", "translation": placed(axes, mpp * (downsample - 1) / 2, 0.0)})
        datasets.append({"path": str(index), "coordinateTransformations": steps})
    described = [axis(letter, unit) for letter in axes]
    own: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets, "name": "image"}]}
    if names:
        own["omero"] = {"channels": [{"label": name} for name in names]}
    if version == "0.4":
        own["multiscales"][0]["version"] = version
        group.attrs.update(own)
    else:
        group.attrs.update({"ome": {"version": version, **own}})
    return path


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit what NGFF says in a group's metadata file."""
    old = path / ".zattrs"
    file = old if old.exists() else path / "zarr.json"
    whole = json.loads(file.read_text())
    edit(whole if file == old else whole["attributes"]["ome"])
    file.write_text(json.dumps(whole))


def axis(letter: str, unit: str | None) -> Mapping[str, str]:
    kind = {"c": "channel", "t": "time"}.get(letter, "space")
    return {"name": letter, "type": kind} | ({"unit": unit} if unit and letter in "yx" else {})


def placed(axes: str, of_xy: float, of_others: float) -> list[float]:
    return [of_xy if letter in "yx" else of_others for letter in axes]


def sides(axes: str, length: int) -> tuple[int, ...]:
    return tuple(length if letter in "yx" else 1 for letter in axes)


def in_axes(image: Image, axes: str) -> Image:
    """The image (C, H, W) with its axes in this order; without c its first channel."""
    whole = image[None, :, None] if "c" in axes else image[None, :1, None]
    wanted = "".join(letter for letter in axes)
    absent = tuple(i for i, letter in enumerate("tczyx") if letter not in wanted)
    kept = [letter for letter in "tczyx" if letter in wanted]
    return np.ascontiguousarray(whole.squeeze(absent).transpose([kept.index(letter) for letter in wanted]))
