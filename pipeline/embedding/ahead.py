"""Keep features made ahead under a hidden name beside their own, until the slide's own job takes them over.

Importing torch and timm takes a processor longer than many a slide. So a job that has done so embeds the slides after
its own as well (`neighbours.py`), and their jobs, which need neither, find their features made. Whether these are the
very ones that the job would make their provenance says: same store, encoder, settings, code and versions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.embedding.encoder_description import EncoderDescription
from pipeline.hdf5_file import HDF5_ERRORS
from pipeline.progress import say
from pipeline.training.feature_range import FeatureRange, embedded_in_words


def ahead_of(out: Path) -> Path:
    """Return the name of features made ahead of the job that makes `out`; only this package looks for it."""
    return out.with_name(f".{out.name}.ahead")


def as_attribute(provenance: dict[str, Any]) -> str:
    """Return provenance as a features file keeps it."""
    return json.dumps(provenance, sort_keys=True)


def is_made(path: Path, provenance: dict[str, Any]) -> bool:
    """Return whether a features file is there and is the one of this provenance."""
    try:
        with h5py.File(path) as file:
            return bool(file.attrs["provenance"] == as_attribute(provenance))
    except HDF5_ERRORS:
        return False


def take_over(
    out: Path,
    provenance: dict[str, Any],
    slide: str,
    encoder: EncoderDescription,
    fitted: FeatureRange | None,
) -> bool:
    """Give features made ahead their final name and log what embed would; False if there are none of this provenance.

    Those of another provenance are removed.
    """
    made = ahead_of(out)
    if not is_made(made, provenance):
        made.unlink(missing_ok=True)
        return False
    with h5py.File(made) as file:
        count = len(file["coords"])
        distance = np.empty(count, np.float32) if fitted is None else np.asarray(file["distance"][...])
    made.replace(out)
    say(f"embed {slide}: {count} patches, embedded by the job of a slide before it")
    say(embedded_in_words(slide, encoder.run, fitted, distance))
    return True
