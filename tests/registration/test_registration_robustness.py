"""Pairs that tempt a registration to be wrong without saying so: right, or `fail` with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from array_slide import ArraySlide
from hard_pairs import neighbouring_section, outcome, swapped_channel, third, tries, turned_by_scanner, wrong_mpp
from numpy.typing import NDArray
from PIL import Image
from synthetic_pair import smooth_noise, synthetic_pair

from pipeline.registration import affine, coarse
from pipeline.registration.assessment import quality_of
from pipeline.registration.blocks_engine import align
from pipeline.registration.deformable import NEIGHBOURS, SAME_SECTION
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.pair import Pair, overview
from pipeline.registration.quality import Correspondences, Residual, verdict
from pipeline.registration.scale import scale_between
from pipeline.registration.stain import tissue_presence
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings


def test_affine_step_finds_scale_and_shear() -> None:
    """A dense slide that is 6 % larger than stated and looked at only in part: the affine step alone has to see it."""
    drawn = synthetic_pair(21, degrees=25, deformation_um=0.0, side_um=1024)
    sparse = overview(NuclearSource(drawn.sparse, 1.0, None))
    dense = overview(NuclearSource(drawn.dense, 0.8 / 1.06, 1))
    found = affine.refined(coarse.search(sparse, dense), sparse, dense)[0]
    truth = drawn.truth.matrix / 1.06
    assert np.abs(found.affine[:, :2] - truth).max() < 0.006
    there = Transform(found.affine).to_dense(drawn.nuclei_um)
    assert np.median(np.linalg.norm(there - drawn.truth(drawn.nuclei_um) / 1.06, axis=1)) < 3


@pytest.mark.parametrize("seed", [0, 3])
def test_wrong_mpp_fails_and_tells_the_scale(seed: int) -> None:
    tried = wrong_mpp(seed)
    found = outcome(tried)
    assert found.quality.verdict == "fail"
    assert found.quality.scale == pytest.approx(tried.scale, rel=0.04)
    assert any(f"{found.quality.scale:.3f} times the stated" in reason for reason in found.quality.reasons)


@pytest.mark.parametrize("seed", [0, 3])
def test_dense_slide_over_a_third_is_right_where_it_lies(seed: int) -> None:
    found = outcome(third(seed))
    assert found.quality.verdict in ("pass", "warn")
    drawn = found.tried.pair
    there, size = drawn.truth(drawn.nuclei_um), np.array(drawn.dense.header.size_xy) * drawn.mpp[1]
    beyond = float(np.mean(((there < 0) | (there > size)).any(1)))
    # Tissue is counted by area, here by nuclei, which lie about as densely everywhere.
    assert found.quality.outside_share == pytest.approx(beyond, abs=0.1)
    assert any("beyond the edge of the dense slide" in reason for reason in found.quality.reasons)
    assert found.median_um < 0.5
    assert found.p90_um < 1.5


@pytest.mark.parametrize("corner", [0, 96])
@pytest.mark.parametrize("part", ["sparse", "dense"])
def test_search_lays_a_small_part_where_it_lies_on_the_whole(part: str, corner: int) -> None:
    values = smooth_noise(np.random.default_rng(3), (128, 128), 3)
    whole = NuclearImage(values, np.ones((128, 128), np.bool_), (0.0, 0.0), 16.0)
    cut = NuclearImage(values[corner:, corner:][:32, :32].copy(), np.ones((32, 32), np.bool_), (0.0, 0.0), 16.0)
    best = coarse.search(*((cut, whole) if part == "sparse" else (whole, cut)))[0]
    middle_um, there_um = 16 * 16.0, (corner + 16) * 16.0
    sparse_um, dense_um = (middle_um, there_um) if part == "sparse" else (there_um, middle_um)
    np.testing.assert_allclose(best.affine @ [sparse_um, sparse_um, 1.0], dense_um, atol=24)


def test_dense_slide_turned_by_the_scanner_is_right() -> None:
    found = outcome(turned_by_scanner(5))
    assert found.quality.verdict == "pass"
    assert found.median_um < 0.3


def test_swapped_channel_is_not_silently_wrong() -> None:
    assert not outcome(swapped_channel(1)).silent


def test_neighbouring_section_is_refused_as_one_section_and_placed_as_its_neighbour() -> None:
    assert outcome(neighbouring_section(0)).quality.verdict == "fail"
    placed = outcome(neighbouring_section(1))
    assert placed.quality.verdict == "warn"
    assert placed.right


@pytest.mark.slow
def test_no_silent_failure_in_many_tries() -> None:
    silent = [(found.tried.case, found.median_um, found.p90_um) for found in map(outcome, tries(24)) if found.silent]
    assert silent == []


def test_half_of_the_nuclei_are_enough() -> None:
    drawn = synthetic_pair(31, degrees=-70, mirrored=True, deformation_um=15, side_um=1280, shared=0.5)
    transform, quality = align(Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None), RegisterSettings())
    error = np.linalg.norm(transform.to_dense(drawn.nuclei_um) - drawn.truth(drawn.nuclei_um), axis=1)
    assert quality.verdict == "pass"
    assert np.median(error) < 1
    assert np.percentile(error, 90) < 2


def test_chance_falls_with_agreeing_blocks() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1000, (60, 2))
    anywhere = Correspondences(points, points + rng.uniform(-12, 12, (60, 2)), np.ones(60, np.bool_))
    near = Correspondences(points, points + rng.normal(0, 1, (60, 2)), np.ones(60, np.bool_))
    assert anywhere.chance(Transform.identity(), 4.0) > 1e-3
    assert near.chance(Transform.identity(), 4.0) < 1e-20
    assert near.chance(Transform.identity(), 4.0, independent=0.05) > 1e-4


def test_small_fields_are_asked_in_smaller_blocks() -> None:
    for step in SAME_SECTION:
        assert step.for_area(1e9) == step
        small = step.for_area(1e5)
        assert (small.block_um, small.spacing_um) == (step.block_um / 2, step.spacing_um / 2)
        assert small.reach_um == step.reach_um
    # Blocks of 512 um every 128 um: of two by two only one counts, and squares of two by two change colour.
    assert NEIGHBOURS.independent == 0.25
    assert NEIGHBOURS.side_blocks == 2
    assert SAME_SECTION[-1].independent == 1


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("columns", [0, 500], ids=["in one column", "scattered"])
def test_scale_is_told_whatever_the_turn_and_the_layout(factor: float, columns: int) -> None:
    points = np.random.default_rng(1).uniform(0, [columns, 500], (40, 2))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]]) @ np.diag([-1.0, 1.0])
    assert scale_between(points, points @ turn.T / factor + 30) == pytest.approx(factor)


def test_parts_that_moved_apart_are_no_other_scale() -> None:
    points = np.random.default_rng(5).uniform(0, 4000, (200, 2))
    parts = (points[:, 0] > 2500).astype(int)
    there = np.where(parts[:, None] == 1, points[:, ::-1] * [1, -1] + [300, 9000], points) / 1.02
    assert scale_between(points, there, parts) == pytest.approx(1.02)
    assert abs(scale_between(points, there) - 1) > 0.1


def test_one_block_tells_no_scale_and_is_no_error() -> None:
    """A neighbouring section hardly larger than a block, which the search alone places."""
    side = ArraySlide(np.full((520, 770, 3), 200, np.uint8), mpp=1.0)
    pair, pose = Pair.of(side, side, (1.0, 1.0), None), coarse.Pose(False, 0.0, 0.8, np.eye(2, 3))
    found = Correspondences(np.array([[300.0, 260.0]]), np.array([[310.0, 260.0]]), np.ones(1, np.bool_))
    settings, maps = RegisterSettings(mode="serial"), [("smooth", Transform.identity(), True)]
    quality = quality_of(pair, settings, Transform.identity(), found, maps, NEIGHBOURS, "blocks", pose, 0.3)
    assert quality.supported
    assert quality.scale is None


def test_tissue_shows_alike_in_pale_and_dark_stains() -> None:
    glass, pale, dark = (np.full((1, 1, 3), value, np.uint8) for value in (255, 205, 90))
    assert tissue_presence(glass)[0, 0] == 0
    assert tissue_presence(pale)[0, 0] > 0.6
    assert tissue_presence(dark)[0, 0] - tissue_presence(pale)[0, 0] < 0.4


@pytest.mark.parametrize(
    ("mode", "residual_um", "word"),
    [
        ("same-section", 2.9, "pass"),
        ("same-section", 3.1, "warn"),
        ("same-section", 20.1, "fail"),
        ("serial", 14.9, "pass"),
        ("serial", 15.1, "warn"),
        ("serial", 50.1, "fail"),
    ],
)
def test_a_nucleus_is_no_measure_of_neighbouring_sections(
    mode: Literal["same-section", "serial"], residual_um: float, word: str
) -> None:
    known = {"support": 0.8, "chance": 0.0, "scale": 1.0, "folds": 0.0, "determinants": (0.9, 1.1)}
    told, reasons = verdict(
        RegisterSettings(mode=mode),
        held_out=Residual(residual_um, 2 * residual_um),
        pose=None,
        margin=None,
        searched=False,
        **known,  # type: ignore[arg-type]
    )
    assert told == word
    assert (word == "pass") == (not reasons)


def landmarks(folder: Path, name: str) -> tuple[ArraySlide, NDArray[np.float64]]:
    points = np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    pixels = np.asarray(Image.open(folder / f"{name}.jpg").convert("RGB"))
    return ArraySlide(pixels, mpp=4.0, downsamples=(1, 2)), points


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("sparse", "dense", "median_px", "p90_px"),
    [
        ("Rat-Kidney_HE", "Rat-Kidney_PanCytokeratin", 3.9, 9.5),
        ("Izd2-29-041-w35_HE", "Izd2-29-041-w35_proSPC", 6.7, 13.5),
    ],
)
def test_neighbours_with_landmarks_lie_as_near_as_landmarks_can_tell(
    real_data: Path, sparse: str, dense: str, median_px: float, p90_px: float
) -> None:
    """The best affine map, fitted to the landmarks themselves, leaves 3.5 and 5.9 px."""
    (first, here), (second, there) = (landmarks(real_data / "landmarks", name) for name in (sparse, dense))
    count = min(len(here), len(there))
    transform, quality = align(Pair.of(first, second, (4.0, 4.0), None), RegisterSettings(mode="serial"))
    error_px = np.linalg.norm(transform.to_dense(here[:count] * 4.0) / 4.0 - there[:count], axis=1)
    assert quality.verdict in ("pass", "warn")
    assert not any("residual" in reason for reason in quality.reasons)
    assert quality.outside_share is not None
    assert np.median(error_px) < median_px
    assert np.percentile(error_px, 90) < p90_px
