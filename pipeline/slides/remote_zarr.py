"""A look at an OME-Zarr folder that lies elsewhere: its header, and a hash of its metadata."""

from __future__ import annotations

import hashlib
import json

from pipeline.errors import StatedError
from pipeline.slides.base import Shows, SlideHeader
from pipeline.slides.opening import open_slide
from pipeline.slides.zarr_images import images_of
from pipeline.zarr_reading import reading_zarr


def header_and_state(address: str, *, slide: str, image: str, shows: Shows) -> tuple[SlideHeader, str]:
    """Return what a folder elsewhere says of itself, and what tells it from another one in its place.

    One pixel of the coarsest level is read. The state is a hash of the metadata of all levels; chunks that change under
    the same metadata are not noticed, for few servers list what they have.

    Raises:
        StatedError: as `pipeline.slides.opening.open_slide`.
    """
    with open_slide(address, slide=slide, image=image, shows=shows) as opened:
        header = opened.header
        last = len(header.levels) - 1
        width, height = header.levels[last].size_xy
        opened.read_region(last, (width // 2, height // 2), (1, 1))
    digest = hashlib.sha256()
    try:
        with reading_zarr():
            for found in images_of(address):
                digest.update(repr(found.described).encode())
                for level in found.levels:
                    told = json.dumps(level.array.metadata.to_dict(), sort_keys=True, default=str)
                    digest.update(f"{level.name}\0{told}\n".encode())
    except ValueError as error:
        raise StatedError(slide=slide, file=address, expected="metadata of OME-Zarr", found=str(error)) from None
    return header, f"metadata {digest.hexdigest()[:32]}"
