"""Draw the H&E of a small slide sharper than its overview, from the store's own patches."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.store.patch_store import PatchStore

_MOST_PATCHES = 5000
_ROWS_AT_ONCE = 128
_WORTH_IT = 1.3


def sparse_picture(store: PatchStore, overview: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """Return the whole slide at a width and height in pixels; `overview` is the store's, read once by the caller.

    Overviews are made for whole slides and are coarse on a small one. Where its overview is clearly too small, and
    the slide has few enough patches to read them all, these are scaled down and laid in their places.
    """
    picture = overview.resize(size_px, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if size_px[0] < overview.width * _WORTH_IT or len(store) > _MOST_PATCHES:
        return picture
    known = store.attributes
    scale = np.asarray(size_px) / np.asarray(known.size_level0_px)
    side_level0 = known.size_px * known.mpp / known.mpp_level0
    first = np.rint(store.table.position_px * scale).astype(np.int64)
    last = np.rint((store.table.position_px + side_level0) * scale).astype(np.int64)
    for start in range(0, len(store), _ROWS_AT_ONCE):
        patches = store.read_sparse(slice(start, min(start + _ROWS_AT_ONCE, len(store))))
        for row, patch in enumerate(patches, start):
            width, height = np.maximum(last[row] - first[row], 1).tolist()
            small = Image.fromarray(patch).resize((width, height), Image.Resampling.BOX)
            picture.paste(small, tuple(first[row].tolist()))
    return picture
