"""The stage tile on OME-Zarr: the patches of the same pixels as TIFF, byte for byte, and what is missing or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from slide_files import pyramid, write_ome, write_rgb
from zarr_files import write_zarr

from pipeline.cli import main
from pipeline.provenance import file_digest
from pipeline.registration.transform import Transform, write_transform
from pipeline.store.patch_store import PatchStore

MPP = 0.65
NAMES = ["DAPI", "CD3"]
LAYOUTS = [{"version": "0.4", "chunk": 96}, {"version": "0.5"}, {"version": "0.5", "shard": 256}]


@pytest.fixture(scope="module")
def images() -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """H&E (H, W, 3) and two channels (C, H, W) of the same nuclei, of which the upper left was never imaged."""
    rng = np.random.default_rng(5)
    field = np.zeros((700, 650), dtype=np.float32)
    for x, y in rng.uniform(0, 700, (1300, 2)):
        cv2.circle(field, (int(x), int(y)), int(rng.integers(4, 7)), float(rng.uniform(0.6, 1.0)), -1)
    nuclei = cv2.GaussianBlur(field, (0, 0), 1.2).astype(np.float64)
    he = np.array([242.0, 226.0, 238.0]) + np.array([-152.0, -176.0, -108.0]) * nuclei[..., None]
    dense = np.stack([nuclei * 40000, np.tile(np.arange(650) * 20, (700, 1))]) + rng.integers(1, 300, (2, 700, 650))
    dense[:, :256, :256] = 0
    return he.astype(np.uint8), dense.astype(np.uint16)


def _levels(image: NDArray[Any], count: int) -> list[NDArray[Any]]:
    return [np.moveaxis(level, -1, 0) for level in pyramid(np.moveaxis(image, 0, -1), count)]


def _tiled(folder: Path, sparse: Path, dense: Path, **settings: Any) -> PatchStore:
    folder.mkdir()
    names = ["--sparse", str(sparse), "--dense", str(dense), "--dense-kind", "fluorescence"]
    assert main(["inspect", "--slide", "s", "--patient", "p", *names, "--out", str(folder / "s.json")]) == 0
    affine = np.array([[1.0, 0.02, 3.3], [-0.02, 1.0, 7.1]])
    write_transform(folder / "transform.zarr", Transform(affine, None, None), {})
    (folder / "qc.json").write_text('{"verdict": "pass", "channel": "DAPI", "judged_by": "nuclei"}')
    given = ["--transform", str(folder / "transform.zarr"), "--qc", str(folder / "qc.json")]
    options = json.dumps({"size_px": 128, "mpp": MPP, "min_tissue": 0.3, "codec": "zstd"} | settings)
    argv = ["tile", "--record", str(folder / "s.json"), *given, "--out", str(folder / "s.zarr")]
    assert main([*argv, "--threads", "2", "--settings", options]) == 0
    return PatchStore.open(folder / "s.zarr")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mpp", [MPP, 1.3, 1.0])
def test_patches_are_byte_for_byte_those_of_a_tiff_of_the_same_pixels(
    tmp_path: Path, images: tuple[NDArray[np.uint8], NDArray[np.uint16]], layout: dict[str, Any], mpp: float
) -> None:
    he, dense = images
    tiffs = (
        write_rgb(tmp_path / "he.tif", pyramid(he, 2), mpp=MPP, compression="zlib"),
        write_ome(tmp_path / "d.ome.tif", _levels(dense, 2), NAMES),
    )
    folders = (
        write_zarr(tmp_path / "he.zarr", _levels(np.moveaxis(he, -1, 0), 2), mpp=MPP, **layout),
        write_zarr(tmp_path / "d.zarr", _levels(dense, 2), NAMES, mpp=MPP, translated=True, **layout),
    )
    one = _tiled(tmp_path / "tiff", *tiffs, mpp=mpp)
    other = _tiled(tmp_path / "zarr", *folders, mpp=mpp)
    assert len(one) > 1
    assert one.attributes.markers == other.attributes.markers == tuple(NAMES)
    arrays = sorted(item.name for item in one.path.iterdir() if item.is_dir())
    assert {"sparse", "dense", "position_um", "pair_quality"} <= set(arrays)
    for name in arrays:
        assert file_digest(one.path / name) == file_digest(other.path / name), name
    assert one.attributes.counts == other.attributes.counts


def test_a_pair_of_ome_zarr_is_looked_at_as_one_of_tiff(
    tmp_path: Path, images: tuple[NDArray[np.uint8], NDArray[np.uint16]]
) -> None:
    pytest.importorskip("dask")
    from pipeline.tiling.lazy_pair import open_lazy_pair

    he, dense = images
    tiffs = (
        write_rgb(tmp_path / "he.tif", pyramid(he, 2), mpp=MPP, compression="zlib"),
        write_ome(tmp_path / "d.ome.tif", _levels(dense, 2), NAMES),
    )
    folders = (
        write_zarr(tmp_path / "he.zarr", _levels(np.moveaxis(he, -1, 0), 2), mpp=MPP),
        write_zarr(tmp_path / "d.zarr", _levels(dense, 2), NAMES, mpp=MPP),
    )
    shown = []
    for kind, paths in (("tiff", tiffs), ("zarr", folders)):
        _tiled(tmp_path / kind, *paths)
        shown.append(open_lazy_pair(tmp_path / kind / "s.json", tmp_path / kind / "transform.zarr", mpp=1.3))
    assert shown[0].channels == shown[1].channels
    np.testing.assert_array_equal(shown[0].sparse_yxc.compute(), shown[1].sparse_yxc.compute())
    np.testing.assert_array_equal(shown[0].dense_cyx.compute(), shown[1].dense_cyx.compute())


def test_chunks_that_are_not_stored_are_told_and_make_no_pairs(
    tmp_path: Path, images: tuple[NDArray[np.uint8], NDArray[np.uint16]], capsys: pytest.CaptureFixture[str]
) -> None:
    he, dense = images
    sparse = write_zarr(tmp_path / "he.zarr", [np.moveaxis(he, -1, 0)], mpp=MPP)
    missing = write_zarr(tmp_path / "d.zarr", [dense], NAMES, mpp=MPP)
    assert not (missing / "0" / "c" / "0" / "3" / "3").exists()
    store = _tiled(tmp_path / "missing", sparse, missing)
    said = capsys.readouterr().err
    assert (
        f"slide s, file {missing}: chunks that are not stored show 0, as the format says: 32 of 242 in level 0" in said
    )
    whole = np.maximum(dense, 1)
    whole[:, :256, :256] = dense[:, 256:512, 256:512]
    filled = _tiled(tmp_path / "filled", sparse, write_zarr(tmp_path / "f.zarr", [whole], NAMES, mpp=MPP))
    assert "not stored" not in capsys.readouterr().err
    assert len(store) == len(filled)
    assert (filled.attributes.counts["pair_not_imaged"], store.attributes.counts["pair_not_imaged"]) == (0, 4)
    corner = (store.table.position_px < 256).all(axis=1)
    assert (store.table.pair_quality[corner] == 0).all()


def test_squares_of_a_corrupt_chunk_are_left_out(
    tmp_path: Path, images: tuple[NDArray[np.uint8], NDArray[np.uint16]]
) -> None:
    he, dense = images
    folder = write_zarr(tmp_path / "d.zarr", [dense], NAMES, mpp=MPP)
    sparse = write_zarr(tmp_path / "he.zarr", _levels(np.moveaxis(he, -1, 0), 4), mpp=MPP)
    kept = _tiled(tmp_path / "kept", sparse, folder, max_corrupt=0.2)
    chunk = sparse / "0" / "c" / "1" / "7" / "3"
    chunk.write_bytes(chunk.read_bytes()[:50])
    without = _tiled(tmp_path / "without", sparse, folder, max_corrupt=0.2)
    assert without.attributes.counts["corrupt"] == 1
    assert len(without) == len(kept) - 1
