"""AnnData's file (.h5ad) of the features of one slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.embedding.anndata_layout import Column, write_about, write_features
from pipeline.embedding.features_file import FeaturesFile
from pipeline.hdf5_file import written_hdf5
from pipeline.provenance import finished


def write_anndata(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write AnnData: X features; obs x_um, y_um, x_px, y_px, slide; obsm spatial, centres in level-0 pixels; uns.

    Raises:
        StatedError: if um per pixel is not known.
    """
    mpp_level0, position_px = opened.level0_mpp(), opened.position_px
    columns: dict[str, Column] = {
        "slide": opened.slide,
        "x_um": position_px[:, 0] * mpp_level0,
        "y_um": position_px[:, 1] * mpp_level0,
        "x_px": position_px[:, 0],
        "y_px": position_px[:, 1],
    }
    about: dict[str, str | float] = {
        "mpp_level0": mpp_level0,
        "patch_size_level0": opened.size_level0_px,
        "encoder": opened.encoder,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    with finished(out) as temporary, written_hdf5(temporary) as file:
        write_features(file, opened, [f"{opened.slide}_{row}" for row in range(len(opened))], columns)
        write_about(file, "more_from_less", about)
