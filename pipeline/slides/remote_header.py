"""A side of a slide that lies elsewhere, seen by its header alone, before anything of it is fetched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipeline.elsewhere.address import is_elsewhere, is_zarr_address
from pipeline.slides.base import Pixels, Shows, SlideHeader


@dataclass(frozen=True, eq=False)
class Unread:
    """What is known of a slide that has not been fetched.

    Attributes:
        header: what it says of itself.
        overview: (height, width, 3) uint8 of an RGB image; None where there is none.
        state: size and version of the file, or hash of the metadata of OME-Zarr.
        digest: hash that stands for the file in records, of its address and state.
    """

    header: SlideHeader
    overview: Pixels | None
    state: str
    digest: str


def unread(place: str, *, slide: str, image: str, shows: Shows) -> Unread | None:
    """Return what can be told of a place that is an address; None for a path.

    Raises:
        StatedError: as `pipeline.slides.remote_tiff.look_at`, or that a folder elsewhere is no OME-Zarr.
    """
    if not is_elsewhere(place):
        return None
    if is_zarr_address(place):
        from pipeline.slides.remote_zarr import header_and_state

        header, state = header_and_state(place, slide=slide, image=image, shows=shows)
        return Unread(header, None, state, _digest(place, state))
    # Here, for tiffslide and fsspec are an extra.
    from pipeline.slides.remote_tiff import look_at

    look = look_at(place, slide=slide, image=image, shows=shows)
    return Unread(look.header, look.overview, str(look.state), _digest(place, str(look.state)))


def _digest(place: str, state: str) -> str:
    return hashlib.sha256(f"{place}\0{state}".encode()).hexdigest()
