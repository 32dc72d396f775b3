"""Brightfield and mask dense sides: from the sheet through every stage, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from array_slide import ArraySlide
from drawn_store import write_store
from numpy.typing import NDArray
from skimage.color import hed2rgb, rgb2hed
from slide_files import halved, write_ome, write_rgb
from small_pair import commands

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration.class_map import class_colour, classes_on, outlined
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.transform import Transform
from pipeline.settings import InspectSettings
from pipeline.sheet import DENSE_KINDS, SheetRow
from pipeline.slides.base import Level
from pipeline.slides.kinds import kind_named
from pipeline.slides.record import SideRecord
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.grid import Grid
from pipeline.tiling.sampling import read_dense_patch
from pipeline.training.augmentation import Augmentation
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import read_training_rows
from pipeline.training.views import Batch, ViewMaker

MASK = kind_named("mask")
SIDE_PX = 512
MPP = 0.5
CLASSES = ("tumour", "stroma")
PAIR = ("sparse", "dense")


def _side(kind: str, channels: tuple[str, ...] = ("label",), dtype: str = "uint8", **changes: Any) -> SideRecord:
    channels = ("R", "G", "B") if kind == "brightfield" else channels
    classes = tuple(enumerate(CLASSES, start=1)) if kind == "mask" else ()
    values = {"classes": classes} | changes
    return SideRecord("d.tif", "tifffile", MPP, "file", (Level((9, 9), 1.0),), channels, dtype, "", kind, **values)


def _draw(folder: Path, name: str, seed: int) -> dict[str, NDArray[np.uint8]]:
    """`{name}.tif` (H&E), `{name}-ihc.tif`, `{name}-mask.ome.tif`, `{name}-hot.ome.tif`; returns what they show.

    Nuclei are haematoxylin on both; where the tissue is tumour (upper part, as far down as the seed says) the cells
    are brown on the second slide, and larger on the first.
    """
    rng = np.random.default_rng(seed)
    labels = np.full((SIDE_PX, SIDE_PX), 2, np.uint8)
    x = np.arange(SIDE_PX)
    edge = (SIDE_PX * (0.45 + 0.1 * seed + 0.15 * np.sin(x / 90 + seed))).astype(int)
    labels[np.arange(SIDE_PX)[:, None] < edge[None]] = 1
    labels[:, :40] = 0
    stains = np.zeros((2, SIDE_PX, SIDE_PX, 3), np.float32)
    stains[0, ..., 1] = 0.02
    for cx, cy in rng.uniform(8, SIDE_PX - 8, (620, 2)):
        centre, tumour = (round(cx), round(cy)), labels[round(cy), round(cx)] == 1
        radius = int(rng.integers(6, 8)) if tumour else int(rng.integers(4, 6))
        for plane in stains:
            haematoxylin = np.ascontiguousarray(plane[..., 0])
            cv2.circle(haematoxylin, centre, radius, 0.1, -1)
            plane[..., 0] = haematoxylin
        if tumour:
            brown = np.ascontiguousarray(stains[1, ..., 2])
            cv2.circle(brown, centre, radius + 4, float(rng.uniform(0.05, 0.12)), 4)
            stains[1, ..., 2] = brown
    he, ihc = (np.rint(hed2rgb(cv2.GaussianBlur(plane, (0, 0), 0.7)) * 255).astype(np.uint8) for plane in stains)
    write_rgb(folder / f"{name}.tif", [he, halved(he)], mpp=MPP)
    write_rgb(folder / f"{name}-ihc.tif", [ihc, halved(ihc)], mpp=MPP)
    size = {"metadata": {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}}
    write_ome(folder / f"{name}-mask.ome.tif", [(labels * 10)[None], halved(labels * 10)[None]], None, **size)
    hot = np.stack([labels == 1, labels == 2]).astype(np.uint8) * 255
    write_ome(folder / f"{name}-hot.ome.tif", [hot], list(CLASSES), **size)
    return {"he": he, "ihc": ihc, "labels": labels}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, NDArray[np.uint8]]]]:
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "classes.csv").write_text("channel,marker\n10,tumour\n20,stroma\n")
    return folder, [_draw(folder, name, seed) for seed, name in enumerate("ab")]


def _row(kind: str, name: str) -> dict[str, str]:
    given = {"slide": name, "patient": f"p-{name}", "sparse": f"{name}.tif", "transform": "identity"}
    if kind == "brightfield":
        return given | {"dense": f"{name}-ihc.tif"}
    if kind == "labels":
        return given | {"dense": f"{name}-mask.ome.tif", "dense-kind": "mask", "markers": "classes.csv"}
    return given | {"dense": f"{name}-hot.ome.tif", "dense-kind": "mask"}


def _run(folder: Path, kind: str, stages: tuple[str, ...]) -> Path:
    with contextlib.chdir(folder):
        for argv in commands([_row(kind, name) for name in "ab"], results=kind).values():
            if argv[0] in stages:
                assert main(argv) == 0, argv
    return folder / kind


@pytest.mark.slow
def test_a_brightfield_cohort_goes_through_every_stage(drawn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, images = drawn
    stages = ("inspect", "register", "tile", "split", "train", "embed", "evaluate")
    results = _run(folder, "brightfield", stages)
    assert "inspect a: dense side taken as brightfield" in capsys.readouterr().err
    store = PatchStore.open(results / "tile/a.zarr")
    known = store.attributes
    assert (known.dense_kind, known.markers, known.dense_channels) == ("brightfield", ("hematoxylin", "DAB"), 3)
    assert (store.table.pair_quality > 0).mean() > 0.5
    x, y = store.table.position_px[5]
    truth = images[0]["ihc"][y : y + 64, x : x + 64].astype(float)
    patch = np.moveaxis(store.read_dense([5])[0], 0, -1)
    assert np.abs(patch - truth).mean() < 6  # JPEG
    # scikit-image divides densities by that of 1e-6.
    densities = np.maximum(rgb2hed(np.maximum(patch, 1)), 0).mean(axis=(0, 1)) * 6
    np.testing.assert_allclose(store.table.marker_mean[5], densities[[0, 2]], rtol=1e-3)
    own = json.loads((results / "train/distilled/encoder/config.json").read_text())["more_from_less"]
    assert own["dense"]["kind"] == "brightfield"
    assert own["dense"]["panel"] == ["hematoxylin", "DAB"]
    assert len(own["dense"]["mean"]) == 3
    scores = pd.read_csv(results / "evaluate/summary.tsv", sep="\t").set_index(["probe", "target"]).score
    assert set(scores["ridge"].index) == {"hematoxylin", "DAB", "mean"}
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("kind", ["labels", pytest.param("one-hot", marks=pytest.mark.slow)])
def test_a_mask_cohort_goes_through_every_stage(drawn: Any, kind: str) -> None:
    folder, images = drawn
    results = _run(folder, kind, ("inspect", "register", "tile", "split", "train", "embed", "evaluate"))
    assert json.loads((results / "register/a/qc.json").read_text())["verdict"] == "warn"
    store = PatchStore.open(results / "tile/a.zarr")
    known = store.attributes
    assert (known.dense_kind, known.markers, known.dense_channels) == ("mask", CLASSES, 1)
    stored = store.read_dense(slice(None))
    for row, (x, y) in enumerate(store.table.position_px):
        truth = images[0]["labels"][y : y + 64, x : x + 64]
        np.testing.assert_array_equal(stored[row, 0], truth)
        shares = [(truth == 1).mean(), (truth == 2).mean()]
        np.testing.assert_allclose(store.table.marker_mean[row], shares, atol=1e-6)
    assert (store.table.pair_quality > 0).all()
    card = (results / "train/distilled/encoder/card.md").read_text()
    assert "mask: tumour, stroma" in card
    scores = pd.read_csv(results / "evaluate/summary.tsv", sep="\t").set_index(["probe", "target"]).score
    assert {*CLASSES, "mean"} == set(scores["ridge"].index)


def test_labels_under_a_turn_are_never_mixed_and_come_from_level_0() -> None:
    labels = np.repeat(np.repeat(np.array([[0, 7], [200, 3]], np.uint8), 64, 0), 64, 1)[..., None]
    slide = ArraySlide(labels, mpp=0.5, downsamples=(1, 2), channels=("label",))
    turn = np.deg2rad(20)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.full(2, 31.75)
    transform = Transform(np.column_stack([matrix, centre - matrix @ centre]), None, None)
    grid = Grid(32, 1.0, 0.5, np.array([[32, 32]]))
    patch = read_dense_patch(slide, 0.5, grid, np.array([32, 32]), transform, labels=True)
    assert set(np.unique(patch.pixels)) == {0, 3, 7, 200}
    assert {level for level, _ in slide.reads} == {0}
    mixed = read_dense_patch(slide, 0.5, grid, np.array([32, 32]), transform)
    assert len(np.unique(mixed.pixels)) > 4


def test_classes_are_drawn_where_the_transform_lays_them() -> None:
    numbers = np.zeros((96, 128), np.uint8)
    numbers[:, 40:80], numbers[30:60, 80:] = 1, 2
    labels = np.array([0, 10, 200], np.uint8)[numbers][..., None]
    hot = np.stack([numbers == 1, numbers == 2], axis=-1).astype(np.uint8) * 255
    shift = Transform(np.array([[1.0, 0.0, 8.0], [0.0, 1.0, -4.0]]))  # H&E to mask, um
    grid = NuclearImage(np.zeros((96, 128), np.float32), np.ones((96, 128), np.bool_), (0.0, 0.0), 0.5)
    expected = np.zeros_like(numbers)
    expected[8:, :112] = numbers[:-8, 16:]
    for pixels, channels, known in ((labels, ("label",), (10, 200)), (hot, CLASSES, (1, 2))):
        mask = NuclearSource(ArraySlide(pixels, mpp=0.5, channels=channels), 0.5, None, "labels")
        np.testing.assert_array_equal(classes_on(mask, known, shift, grid), expected)
    he = np.full((96, 128, 3), 200, np.uint8)
    drawn = outlined(he, expected)
    assert (drawn[expected == 0] == 200).all()
    assert (drawn[50, 40] == np.rint(0.55 * 200 + 0.45 * np.array(class_colour(0)))).all(), "inside: a tint"
    assert (drawn[50, 24] == class_colour(0)).all(), "along the border: the colour itself"


def test_beyond_a_brightfield_slide_is_white() -> None:
    slide = ArraySlide(np.full((64, 64, 3), 90, np.uint8), mpp=0.5)
    grid = Grid(32, 0.5, 0.5, np.array([[48, 0]]))
    patch = read_dense_patch(slide, 0.5, grid, np.array([48, 0]), Transform(np.eye(2, 3), None, None))
    assert patch.inside == pytest.approx(0.5)
    assert (patch.pixels[:, :, :15] == 90).all()
    assert (patch.pixels[:, :, 17:] == 255).all()


def test_stored_labels_are_numbers_of_classes_and_unknown_ones_are_refused() -> None:
    side = _side("mask", classes=((10, "tumour"), (0, "glass"), (200, "stroma")))
    planes = np.array([[[[0, 10], [200, 10]]]], np.uint8)
    stored = MASK.stored_pixels(side, planes)
    assert stored.tolist() == [[[[2, 1], [3, 1]]]]
    np.testing.assert_allclose(MASK.patch_values(side, stored), [[0.5, 0.25, 0.25]])
    with pytest.raises(StatedError, match=r"the labels 10, 0, 200 of the markers CSV, 0 for none, found 11"):
        MASK.stored_pixels(side, planes + np.uint8(1) * (planes == 10))
    hot = _side("mask", CLASSES)
    assert MASK.stored_pixels(hot, np.array([[[[9, 0]], [[0, 0]]]], np.uint16)).tolist() == [[[[1, 0]]]]
    with pytest.raises(StatedError, match="at most one class per pixel"):
        MASK.stored_pixels(hot, np.array([[[[9, 0]], [[1, 0]]]], np.uint16))


def test_masks_are_read_as_one_channel_per_class_and_seen_without_mixing(drawn: Any) -> None:
    folder, _ = drawn
    if not (folder / "labels/split/patches.tsv").exists():
        _run(folder, "labels", ("inspect", "register", "tile", "split"))
    split, stores = folder / "labels/split/patches.tsv", folder / "labels/tile"
    rows = read_training_rows(split, stores, branches=PAIR, batch_size=4, markers=("stroma",))
    patches = TrainingPatches(rows, dense=True)
    pixels, present = patches.dense(np.arange(6))
    stored = rows.slides[0].store.read_dense(rows.slides[0].rows[:6])
    np.testing.assert_array_equal(pixels, stored == 2)
    assert present.all()
    maker = ViewMaker(
        ["sparse", "dense"],
        Augmentation(32, 0.75, 1.0, 0.0),
        shared_geometry=True,
        normalisation=Normalisation(ColourStatistics((0.5,) * 3, (1.0,) * 3), (), torch.device("cpu")),
        dense_kind="mask",
    )
    batch = Batch(torch.zeros(6, 64, 64, 3, dtype=torch.uint8), torch.from_numpy(pixels), torch.from_numpy(present))
    _, view = maker(batch, Draws(torch.Generator().manual_seed(0), 6))
    assert set(torch.unique(view).tolist()) <= {0.0, 1.0}
    assert view.shape == (6, 1, 32, 32)


def test_a_brightfield_view_is_standardised_and_a_blank_one_is_zero() -> None:
    rgb = torch.full((4, 3, 32, 32), 127.5)
    normalisation = Normalisation(
        ColourStatistics((0.0,) * 3, (1.0,) * 3),
        (),
        torch.device("cpu"),
        ColourStatistics((0.25,) * 3, (0.5,) * 3),
    )
    still = Augmentation(32, 1.0, 0.0, 0.0)
    maker = ViewMaker(
        ["sparse", "dense"], still, shared_geometry=True, normalisation=normalisation, dense_kind="brightfield"
    )
    sparse = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    for there, expected in ((True, 0.5), (False, 0.0)):
        present = torch.full((4, 3), there)
        _, view = maker(Batch(sparse, rgb.clone(), present), Draws(torch.Generator().manual_seed(0), 4))
        torch.testing.assert_close(view, torch.full_like(view, expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": "a-ihc.tif", "dense_kind": "mask"}, "one channel of labels, or one channel per class.*RGB"),
        ({"dense": "a-ihc.tif", "markers": "classes.csv"}, "no markers CSV for an RGB image"),
        ({"dense": "a-hot.ome.tif", "dense_kind": "brightfield"}, "an RGB image.*2 channels"),
        ({"dense": "a-mask.ome.tif"}, "dense_kind in the sheet.*one channel without a name"),
        ({"dense": "a-mask.ome.tif", "dense_kind": "mask"}, "a markers CSV that names each label"),
        ({"dense": "a-hot.ome.tif", "dense_kind": "mask", "transform": ""}, "a transform.*a mask cannot be registered"),
        (
            {"dense": "a-mask.ome.tif", "dense_kind": "mask", "markers": "twice.csv"},
            "label '10'; line 4: class 'tumour'",
        ),
    ],
)
def test_kinds_that_contradict_the_file_are_refused(drawn: Any, changes: dict[str, str], message: str) -> None:
    folder, _ = drawn
    (folder / "twice.csv").write_text("channel,marker\n10,tumour\n10,x\n20,tumour\n")
    with contextlib.chdir(folder), pytest.raises(StatedError, match=message):
        inspect_slide(SheetRow("s", "p", "a.tif", **({"transform": "identity"} | changes)), InspectSettings())


def test_a_cohort_of_two_kinds_is_refused_before_training(tmp_path: Path) -> None:
    sparse = np.zeros((8, 16, 16, 3), np.uint8)
    kinds = {"a": ("mask", CLASSES, 1), "b": ("brightfield", ("hematoxylin", "DAB"), 3)}
    for name, (kind, markers, channels) in kinds.items():
        dense, mean = np.zeros((8, channels, 16, 16), np.uint8), np.zeros((8, len(markers)))
        store = tmp_path / f"{name}.zarr"
        write_store(store, sparse=sparse, dense=dense, slide=name, markers=markers, dense_kind=kind, marker_mean=mean)
    table = [(name, row, name, 1, 1.0) for name in kinds for row in range(8)]
    columns = ["slide", "row", "patient", "fold", "pair_quality"]
    pd.DataFrame(table, columns=columns).to_csv(tmp_path / "patches.tsv", sep="\t", index=False)
    with pytest.raises(StatedError, match=r"slide b.*dense sides of one kind, mask as of slide a, found brightfield"):
        read_training_rows(tmp_path / "patches.tsv", tmp_path, branches=PAIR, batch_size=4)
    of_b = pd.DataFrame([line for line in table if line[0] == "b"], columns=columns)
    of_b.to_csv(tmp_path / "b.tsv", sep="\t", index=False)
    with pytest.raises(StatedError, match="no choice of markers"):
        read_training_rows(tmp_path / "b.tsv", tmp_path, branches=PAIR, batch_size=4, markers=("DAB",))


def test_a_store_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    write_store(
        tmp_path / "s.zarr",
        sparse=pixels,
        dense=np.zeros((2, 1, 16, 16), np.uint8),
        markers=("DAPI",),
        dense_kind="photograph",
    )
    with pytest.raises(StatedError, match="dense_kind 'photograph'"):
        PatchStore.open(tmp_path / "s.zarr")


def test_every_kind_of_the_sheet_is_known_to_all_stages() -> None:
    for name in DENSE_KINDS:
        kind, trained = kind_named(name), dense_kind(name)
        assert kind.name == name
        assert kind.stored_size_px(64) == trained.side_px(64)
        assert kind.is_registered or kind.words.laid_over
        assert kind.is_registered or kind.words.no_nuclei
    with pytest.raises(StatedError, match=r"fluorescence, brightfield, mask.*'elsewhere'"):
        kind_named("elsewhere")
