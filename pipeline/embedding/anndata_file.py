"""Write the features of one slide, or of a cohort with its predicted markers, as AnnData (.h5ad)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from pipeline.embedding.anndata_layout import Category, Column, write_about, write_features
from pipeline.embedding.features_file import FeaturesFile, difference, open_features
from pipeline.errors import StatedError
from pipeline.hdf5_file import written_hdf5
from pipeline.provenance import finished

PREDICTED = "predicted "
MARKERS_NAME = "patches.parquet"


def write_anndata(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write AnnData: X features; obs slide, x_um, y_um, x_px, y_px; obsm spatial, centres in level-0 pixels; uns.

    Raises:
        StatedError: if um per pixel is not known.
    """
    about: dict[str, str | float] = {
        "mpp_level0": opened.level0_mpp(),
        "patch_size_level0": opened.size_level0_px,
        "encoder": opened.encoder,
    }
    _write([opened], out, {}, about | _text(provenance))


def write_cohort_anndata(
    paths: Sequence[Path], markers: Path | None, out: Path, provenance: dict[str, Any], mpp_level0: float | None = None
) -> None:
    """Write one AnnData file of several slides, in the order of `paths`.

    Args:
        paths: features files of one encoder.
        markers: the folder that predict wrote for a run, `{slide}/patches.parquet` each, whose predicted markers become
            columns of obs; NaN in slides where a marker is left out. None for features alone.
        out: the file.
        provenance: kept in uns.
        mpp_level0: um per level-0 pixel, where a file of TRIDENT does not tell it.

    Raises:
        StatedError: if there is no file, two are of other encoders or widths or of one slide, um per pixel is not
            known, or predicted markers are not those of the same patches.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(path, mpp_level0)) for path in paths]
        _check_alike(sources)
        predicted = {} if markers is None else _predicted(sources, markers)
        about: dict[str, str | float] = {"encoder": sources[0].encoder}
        _write(sources, out, predicted, about | _text(provenance))


def _write(
    sources: Sequence[FeaturesFile], out: Path, more: dict[str, NDArray[Any]], about: dict[str, str | float]
) -> None:
    position_px = np.concatenate([opened.position_px for opened in sources])
    counts = [len(opened) for opened in sources]
    mpp = np.repeat([opened.level0_mpp() for opened in sources], counts)
    columns: dict[str, Column] = {
        "slide": Category([opened.slide for opened in sources], np.repeat(np.arange(len(sources)), counts)),
        "x_um": position_px[:, 0] * mpp,
        "y_um": position_px[:, 1] * mpp,
        "x_px": position_px[:, 0],
        "y_px": position_px[:, 1],
        **more,
    }
    index = [f"{opened.slide}_{row}" for opened in sources for row in range(len(opened))]
    with finished(out) as temporary, written_hdf5(temporary) as file:
        write_features(file, sources, index, columns)
        write_about(file, "more_from_less", about)


def _text(provenance: dict[str, Any]) -> dict[str, str | float]:
    return {"provenance": json.dumps(provenance, sort_keys=True)}


def _check_alike(sources: Sequence[FeaturesFile]) -> None:
    """Refuse files whose rows cannot stand in one table."""
    first, slides = sources[0], set[str]()
    for opened in sources:
        if (opened.encoder, opened.width) != (first.encoder, first.width):
            expected = f"{first.width} features of encoder {first.encoder}, as in {first.path.name}"
            found = f"{opened.width} features of {opened.encoder}"
            raise StatedError(slide=opened.slide, file=opened.path, expected=expected, found=found)
        if opened.slide in slides:
            raise StatedError(
                slide=opened.slide, file=opened.path, expected="each slide once", found=f"{opened.slide} twice"
            )
        slides.add(opened.slide)


def _predicted(sources: Sequence[FeaturesFile], folder: Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns `predicted NAME` (N,) of any slide, NaN where a slide has not got the marker."""
    tables = [_predicted_of_slide(opened, folder / opened.slide / MARKERS_NAME) for opened in sources]
    names = dict.fromkeys(name for table in tables for name in table.column_names if name.startswith(PREDICTED))
    return {
        name: np.concatenate(
            [table[name].to_numpy() if name in table.column_names else np.full(len(table), np.nan) for table in tables]
        )
        for name in names
    }


def _predicted_of_slide(opened: FeaturesFile, path: Path) -> pa.Table:
    expected = f"predicted markers of the {len(opened)} patches of the features"
    if not path.is_file():
        raise StatedError(slide=opened.slide, file=path, expected=expected, found="no file")
    try:
        table = parquet.read_table(path)
        position_px = np.stack([table["x_px"].to_numpy(), table["y_px"].to_numpy()], axis=1)
    except (OSError, pa.ArrowException, LookupError) as error:
        raise StatedError(slide=opened.slide, file=path, expected=expected, found=str(error)) from None
    if not np.array_equal(position_px, opened.position_px):
        raise StatedError(
            slide=opened.slide, file=path, expected=expected, found=difference(position_px, opened.position_px)
        )
    return table
