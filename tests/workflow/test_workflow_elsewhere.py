"""A cohort whose slides lie on a web server, run by Snakemake."""

from __future__ import annotations

from pathlib import Path

import pytest
from cohort import planned, snakemake, write_cohort
from range_server import serving
from small_pair import draw_pair

from pipeline.provenance import file_digest

pytest.importorskip("tiffslide")

CONFIG = {"tile": {"size_px": 64, "mpp": "native"}, "runs": {"distilled": {"branches": ["sparse", "dense"]}}}


@pytest.mark.slow
def test_stores_of_slides_elsewhere_are_those_of_slides_here_and_nothing_fetched_is_left(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (tmp_path / "files", there, here):
        folder.mkdir()
    row = draw_pair(tmp_path / "files", "a", 0)
    with serving(tmp_path / "files") as server:
        for folder, base in ((there, server.url), (here, str(tmp_path / "files"))):
            places = {side: f"{base}/{row[side]}" for side in ("sparse", "dense")}
            write_cohort(folder, [row | places], CONFIG)
            done = snakemake(folder, "--cores", "2", "tile_all", "panel_all")
            assert done.returncode == 0, done.stdout[-3000:]
        assert not (there / "resources" / "staged" / "a").exists()
        for name in ("results/tile/a.zarr", "results/panel/a.json"):
            assert file_digest(there / name) == file_digest(here / name)
        # What is done asks the server for nothing; with `keep` other patches do not either.
        asked = len(server.asked)
        assert "stage" not in planned(snakemake(there, "-n", "tile_all").stdout)
        assert len(server.asked) == asked
        kept = CONFIG | {"staging": {"keep": True}, "tile": {"size_px": 96, "mpp": "native"}}
        places = {side: f"{server.url}/{row[side]}" for side in ("sparse", "dense")}
        write_cohort(there, [row | places], kept)
        assert snakemake(there, "--cores", "2", "tile_all").returncode == 0
        asked = len(server.asked)
        write_cohort(there, [row | places], kept | {"tile": {"size_px": 64, "mpp": "native"}})
        assert snakemake(there, "--cores", "2", "tile_all").returncode == 0
        assert len(server.asked) == asked
