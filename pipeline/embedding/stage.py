"""Stage embed: compute features of a store's patches, or at given coordinates, in TRIDENT's HDF5 layout."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.ahead import as_attribute
from pipeline.embedding.coordinates import CutAttributes, LocatedPatches
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.encoder_description import EncoderDescription
from pipeline.embedding.features_file import check_finite
from pipeline.errors import StatedError
from pipeline.hdf5_file import checked_hdf5
from pipeline.progress import progress, say
from pipeline.provenance import finished
from pipeline.settings import EmbedSettings
from pipeline.store.patch_store import PatchStore, StoreAttributes
from pipeline.training.feature_range import embedded_in_words

SCHEMA_VERSION = 1
MPP_TOLERANCE = 0.05
_CHUNK_BYTES = 2**20
_BATCHES_AHEAD = 2
_UM_PER_PX_AT_1X = 10.0
_COMPARED_PATCHES = 4

Patches = PatchStore | LocatedPatches
Known = StoreAttributes | CutAttributes


def embed(
    store: Patches,
    encoder: Encoder,
    settings: EmbedSettings,
    out: Path,
    provenance: dict[str, Any],
    overlap: float = 0.0,
) -> None:
    """Write `features` (N, D) float32 and `coords` (N, 2) int64 of all patches of a store, in its row order.

    Where the encoder knows the range of its training, `distance` (N,) float32 says how far from it each patch is, in
    multiples of the limit: above 1 is outside.

    Args:
        store: the patches.
        encoder: what embeds them.
        settings: of the stage.
        out: the file to write.
        provenance: of the result.
        overlap: of neighbouring patches, as share of their side; for the attribute.

    Raises:
        StatedError: if the store's patches differ from those of the encoder's training by more than 5 % in um per
            pixel, or in size, if it has none, if `auto` found a precision that changes what the features say, or if
            a feature is not finite.
    """
    check_patches(store, encoder.description)
    count, width = len(store), encoder.description.feature_dim
    precision = encoder.precision(settings.precision)
    known = store.attributes
    if not count:
        raise StatedError(slide=known.slide, file=store.path, expected="a store with patches", found="none")
    if settings.precision == "auto":
        encoder.check_precision(store.read_sparse(slice(0, _COMPARED_PATCHES)), precision)
    chunk = (min(count, max(1, -(-_CHUNK_BYTES // (4 * width)))), width)
    with finished(out) as temporary, checked_hdf5(temporary) as (file, check):
        features = file.create_dataset("features", shape=(count, width), dtype=np.float32, chunks=chunk)
        distance = np.empty(count, dtype=np.float32)
        done = 0
        batches = _batches(store, settings.batch_size)
        total = -(-count // settings.batch_size)
        label = f"embed {known.slide}"
        for patches in progress(batches, label=label, unit="batches", total=total):
            found = encoder.embed(patches, precision)
            check_finite(found, done, known.slide, store.path)
            features[done : done + len(found)] = found
            if encoder.fitted is not None:
                distance[done : done + len(found)] = encoder.fitted.distance(found)
            done += len(found)
            check()
        coords = file.create_dataset("coords", data=store.table.position_px.astype(np.int64))
        features.attrs.update({"name": known.slide, "savetodir": str(out.parent)})
        coords.attrs.update(trident_attributes(known, out, overlap) | own_attributes(known, encoder.description))
        file.attrs.update(
            {
                "schema": SCHEMA_VERSION,
                "encoder": encoder.description.sha256,
                "precision": precision,
                "provenance": as_attribute(provenance),
            }
        )
        if encoder.fitted is not None:
            file.create_dataset("distance", data=distance)
    say(embedded_in_words(known.slide, encoder.description.run, encoder.fitted, distance))


def check_patches(store: Patches, trained: EncoderDescription) -> None:
    """Raise StatedError unless the store's patches are like those that the encoder was trained on."""
    known = store.attributes
    if abs(known.mpp / trained.mpp - 1) > MPP_TOLERANCE or known.size_px != trained.patch_px:
        raise StatedError(
            slide=known.slide,
            file=store.path,
            expected=f"patches of {trained.patch_px} px at {trained.mpp:g} um/px (within 5 %), as the encoder "
            f"{trained.run} was trained on",
            found=f"{known.size_px} px at {known.mpp:g} um/px",
        )


def trident_attributes(known: Known, out: Path, overlap: float = 0.0) -> dict[str, Any]:
    """Return the nine attributes that TRIDENT puts on `coords`, with true values.

    Magnifications are 10 / mpp, unrounded.
    """
    width, height = known.size_level0_px
    return {
        "patch_size": known.size_px,
        "patch_size_level0": known.patch_size_level0,
        "level0_magnification": _UM_PER_PX_AT_1X / known.mpp_level0,
        "target_magnification": _UM_PER_PX_AT_1X / known.mpp,
        "overlap": round(overlap * known.size_px),
        "name": known.slide,
        "savetodir": str(out.parent),
        "level0_width": width,
        "level0_height": height,
    }


def own_attributes(known: Known, encoder: EncoderDescription) -> dict[str, Any]:
    """Return what this project adds on `coords`: readers that do not know these ignore them."""
    return {
        "mpp": known.mpp,
        "mpp_level0": known.mpp_level0,
        "qupath_origin_px": known.qupath_origin_px,
        "slide": known.slide,
        "patient": known.patient,
        "encoder": encoder.sha256,
        "encoder_run": encoder.run,
        "recipe": recipe_hash(known, encoder),
    }


def recipe_hash(known: Known, encoder: EncoderDescription) -> str:
    """Hash of how patches were cut and by what they were embedded; slides that agree in it can be compared."""
    # Copied or decoded, on the tile lattice or not, the same square has the same pixels: slides of several scanners
    # differ in these and still compare.
    patches = {key: value for key, value in known.recipe.items() if key not in ("grid", "codec", "qupath_crop")}
    recipe = {"patches": patches, "size_px": known.size_px, "encoder": encoder.sha256}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _batches(store: Patches, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield all sparse patches in row order, read by a thread that stays a few batches ahead."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="patches")
    try:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        for start in range(0, len(store), size):
            waiting.append(pool.submit(store.read_sparse, slice(start, min(start + size, len(store)))))
            if len(waiting) > _BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
