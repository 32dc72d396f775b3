"""The lazy view of a pair shows what a store would hold, reads no more than it is asked for, and travels to workers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from cohort import REPOSITORY
from slide_files import halved, write_ome, write_rgb

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform, write_transform
from pipeline.slides.lazy_blocks import opened_once
from pipeline.slides.opening import open_side
from pipeline.slides.record import read_record
from pipeline.slides.tiff_reader import TiffSlide
from pipeline.tiling import lazy_pair
from pipeline.tiling.grid import lattice
from pipeline.tiling.lazy_pair import open_lazy_pair
from pipeline.tiling.sampling import read_dense_patch, read_sparse_patch

WIDTH, HEIGHT, MPP = 1200, 700, 0.5


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Path]:
    """An inspected pair of noise, 1200 x 700 px, blurred so that neighbouring pixels resemble each other."""
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 3)
    planes = np.stack([cv2.GaussianBlur(rng.integers(0, 60000, (HEIGHT, WIDTH), dtype=np.uint16), (0, 0), 3)] * 2)
    planes[1] //= 2
    write_rgb(tmp_path / "a.tif", [rgb, halved(rgb)], mpp=MPP)
    write_ome(tmp_path / "a.ome.tif", [planes], ["DAPI", "CD3"], metadata={"PhysicalSizeX": MPP, "PhysicalSizeY": MPP})
    with contextlib.chdir(tmp_path):
        sheet = ["--slide", "a", "--patient", "p", "--sparse", "a.tif", "--dense", "a.ome.tif"]
        assert main(["inspect", *sheet, "--out", "a.json"]) == 0
        yield tmp_path / "a.json"
    opened_once.cache_clear()


def _bent() -> Transform:
    grid = DisplacementGrid.covering((0.0, 0.0), (WIDTH * MPP, HEIGHT * MPP), 16.0)
    nodes = grid.nodes_um()
    bent = grid.with_values(np.stack([3 * np.sin(nodes[:, 1] / 60), 2 * np.cos(nodes[:, 0] / 50)], axis=1))
    affine = np.array([[0.99, 0.05, -4.0], [-0.05, 0.99, 9.0]])
    return Transform.with_inverse(affine, bent, np.array([[0.0, 0.0], [WIDTH * MPP, HEIGHT * MPP]]))


def _written(transform: Transform, folder: Path) -> Path:
    write_transform(folder / "transform.zarr", transform, {})
    return folder / "transform.zarr"


def test_without_displacement_the_view_is_the_two_files(record: Path, tmp_path: Path) -> None:
    pair = open_lazy_pair(record, _written(Transform.identity(), tmp_path))
    assert pair.sparse_yxc.shape == (HEIGHT, WIDTH, 3)
    assert pair.channels == ("DAPI", "CD3")
    assert pair.dense_cyx.dtype == np.uint16
    np.testing.assert_array_equal(pair.dense_cyx.compute(), tifffile.imread("a.ome.tif"))
    with open_side(read_record(record).sparse) as slide:
        np.testing.assert_array_equal(pair.sparse_yxc.compute(), slide.read_region(0, (0, 0), (WIDTH, HEIGHT)))


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_the_view_through_a_transform_is_what_patches_of_a_store_hold(record: Path, tmp_path: Path, mpp: float) -> None:
    transform = _bent()
    pair = open_lazy_pair(record, _written(transform, tmp_path), mpp=mpp)
    dense, sparse = pair.dense_cyx.compute(), pair.sparse_yxc.compute()
    inspected = read_record(record)
    assert inspected.dense is not None
    grid = lattice((WIDTH, HEIGHT), size_px=64, mpp=mpp, mpp_level0=MPP)
    with open_side(inspected.sparse) as he, open_side(inspected.dense) as multiplex:
        for corner in grid.position_px[::7]:
            x, y = (round(side / grid.downsample) for side in corner.tolist())
            wanted = read_dense_patch(multiplex, MPP, grid, corner, transform).pixels
            found = dense[:, y : y + 64, x : x + 64].astype(int)
            # A block's window of the level is smoothed as a whole, a patch's by itself: they round alike but for 1.
            assert np.abs(found - wanted.astype(int)).max() <= 1
            np.testing.assert_array_equal(sparse[y : y + 64, x : x + 64], read_sparse_patch(he, grid, corner))


def test_only_the_blocks_that_are_looked_at_are_read(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    read = TiffSlide.read_region

    def counted(
        self: TiffSlide, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int], channels: None = None
    ) -> np.ndarray:
        sizes.append(size_xy)
        return read(self, level, corner_xy, size_xy, channels)

    monkeypatch.setattr(TiffSlide, "read_region", counted)
    pair = open_lazy_pair(record, _written(_bent(), tmp_path))
    assert not sizes
    pair.dense_cyx[1, 10:20, 10:20].compute()
    assert len(sizes) == 1
    assert max(sizes[0]) < 1.1 * lazy_pair.BLOCK_PX


def test_blocks_are_read_by_other_processes_too(record: Path, tmp_path: Path) -> None:
    pair = open_lazy_pair(record, _written(_bent(), tmp_path), mpp=2.0)
    assert float(pair.dense_cyx.mean().compute(scheduler="processes", num_workers=1)) == pytest.approx(
        float(pair.dense_cyx.compute().mean())
    )


def test_a_view_finer_than_the_slide_is_refused(record: Path, tmp_path: Path) -> None:
    with pytest.raises(StatedError, match=r"0.5 um/px, the resolution of the H&E, or coarser"):
        open_lazy_pair(record, _written(Transform.identity(), tmp_path), mpp=0.25)


def test_a_slide_without_a_dense_side_is_refused(record: Path, tmp_path: Path) -> None:
    assert main(["inspect", "--slide", "b", "--patient", "p", "--sparse", "a.tif", "--out", "b.json"]) == 0
    with pytest.raises(StatedError, match="expected a slide with a dense image, found none"):
        open_lazy_pair(tmp_path / "b.json", _written(Transform.identity(), tmp_path))


def test_the_page_about_viewing_runs_as_printed(small_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs" / "viewing.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].replace("a1", "a")
    with contextlib.chdir(small_results):
        exec(compile(code, "viewing.md", "exec"), {})
    assert capsys.readouterr().out == "('DAPI', 'CD3') (2, 192, 192) (192, 192, 3)\n"
