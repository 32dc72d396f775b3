"""The engine sitk against known truth, by nuclei and by a channel that shows none, and what it says where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from numpy.typing import NDArray
from pydantic import ValidationError
from synthetic_pair import SyntheticPair, synthetic_pair
from test_registration import NAMES, OUTPUTS, errors_um, write_files

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration import sitk_engine
from pipeline.registration.assessment import assess
from pipeline.registration.information import information_of_shifts, information_shift
from pipeline.registration.pair import Pair
from pipeline.registration.qc_file import to_mapping
from pipeline.registration.quality import Quality
from pipeline.registration.sampled import affine_through
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

BY_NUCLEI = RegisterSettings(engine="sitk")
BY_STRUCTURES = RegisterSettings(engine="sitk", channel="Autofluorescence")


def without_nuclei(drawn: SyntheticPair) -> SyntheticPair:
    """The pair with one dense channel: tissue that glows between its nuclei, which stay dark."""
    dapi = drawn.dense.read_region(0, (0, 0), drawn.dense.header.size_xy, [1])[..., 0].astype(np.float32)
    nuclei = np.clip(cv2.GaussianBlur(dapi, (0, 0), 1) / 5000, 0, 1)
    tissue = np.clip(cv2.GaussianBlur(nuclei, (0, 0), 18 / drawn.mpp[1]) * 3, 0, 0.6)
    noise = np.random.default_rng(5).normal(0, 40, dapi.shape)
    glow = np.clip(300 + 4000 * tissue * (1 - nuclei) + noise, 0, 65535).astype(np.uint16)
    dense = ArraySlide(glow[..., None], mpp=drawn.mpp[1], downsamples=(1, 2, 4), channels=("Autofluorescence",))
    return replace(drawn, dense=dense)


def opened(drawn: SyntheticPair, settings: RegisterSettings) -> Pair:
    return Pair.of(drawn.sparse, drawn.dense, drawn.mpp, settings.nuclear_channel, settings.channel)


def best_affine_um(drawn: SyntheticPair) -> NDArray[np.float64]:
    truth = drawn.truth(drawn.nuclei_um)
    return errors_um(drawn, Transform(affine_through(drawn.nuclei_um, truth)))


@pytest.fixture(scope="module")
def drawn() -> SyntheticPair:
    return synthetic_pair(3, degrees=20, deformation_um=15, side_um=1280)


@pytest.fixture(scope="module")
def by_structures(drawn: SyntheticPair) -> tuple[Transform, Quality]:
    return sitk_engine.align(opened(without_nuclei(drawn), BY_STRUCTURES), BY_STRUCTURES)


def test_it_comes_far_closer_than_any_affine_map_by_nuclei(drawn: SyntheticPair) -> None:
    transform, quality = sitk_engine.align(opened(drawn, BY_NUCLEI), BY_NUCLEI)
    found, best = (np.percentile(errors, (50, 90)) for errors in (errors_um(drawn, transform), best_affine_um(drawn)))
    assert quality.verdict == "pass", quality.reasons
    assert quality.engine == "sitk"
    assert quality.channel == "DAPI"
    assert (found < best / 2).all()
    # Half a pixel of 4 um.
    assert found[0] < 2
    assert quality.fold_fraction == 0
    assert [step.name for step in quality.steps] == ["initial", "coarse", "affine", "b-spline"]
    assert quality.held_out.median_um == pytest.approx(found[0], rel=0.25, abs=0.5)


def test_it_registers_by_a_channel_without_nuclei_and_says_what_judged_it(
    drawn: SyntheticPair, by_structures: tuple[Transform, Quality]
) -> None:
    transform, quality = by_structures
    found, best = (np.percentile(errors, (50, 90)) for errors in (errors_um(drawn, transform), best_affine_um(drawn)))
    assert (found < best / 2).all()
    assert found[0] < 4
    assert quality.verdict == "warn"
    assert (
        "no channel shows nuclei: blocks were compared by mutual information in Autofluorescence" in quality.reasons[-1]
    )
    assert to_mapping(quality)["judged_by"] == "structures"
    # The fit that is judged lacks the squares that judge it, so it is the worse one.
    assert 0.75 * found[0] < quality.held_out.median_um < best[0]


def test_a_channel_is_judged_by_nuclei_where_another_one_shows_them(drawn: SyntheticPair) -> None:
    glow = without_nuclei(drawn).dense.read_region(0, (0, 0), drawn.dense.header.size_xy, [0])
    dapi = drawn.dense.read_region(0, (0, 0), drawn.dense.header.size_xy, [1])
    dense = ArraySlide(
        np.concatenate([glow, dapi], axis=-1),
        mpp=drawn.mpp[1],
        downsamples=(1, 2, 4),
        channels=("Autofluorescence", "DAPI"),
    )
    both = replace(drawn, dense=dense)
    transform, quality = sitk_engine.align(opened(both, BY_STRUCTURES), BY_STRUCTURES)
    assert quality.channel == "DAPI"
    assert to_mapping(quality)["judged_by"] == "nuclei"
    assert 0.75 * float(np.median(errors_um(drawn, transform))) < quality.held_out.median_um < 3


def test_the_same_pair_gives_the_same_map(drawn: SyntheticPair, by_structures: tuple[Transform, Quality]) -> None:
    again, _ = sitk_engine.align(opened(without_nuclei(drawn), BY_STRUCTURES), BY_STRUCTURES)
    first = by_structures[0]
    assert np.array_equal(again.affine, first.affine)
    assert again.forward is not None
    assert first.forward is not None
    assert np.array_equal(again.forward.values_um, first.forward.values_um)


@pytest.mark.parametrize("seed", [11, 12])
def test_another_tissue_fails_without_nuclei_too(seed: int) -> None:
    wrong = without_nuclei(synthetic_pair(seed, side_um=1024, tissue_seed=seed + 50))
    _, quality = sitk_engine.align(opened(wrong, BY_STRUCTURES), BY_STRUCTURES)
    assert quality.verdict == "fail", quality.reasons


def test_a_blank_channel_fails_with_its_reason(drawn: SyntheticPair) -> None:
    width, height = drawn.dense.header.size_xy
    blank = np.full((height, width, 1), 100, np.uint16)
    dense = ArraySlide(blank, mpp=drawn.mpp[1], downsamples=(1, 2, 4), channels=("Autofluorescence",))
    _, quality = sitk_engine.align(opened(replace(drawn, dense=dense), BY_STRUCTURES), BY_STRUCTURES)
    assert quality.verdict == "fail"
    assert "an image without any signal" in quality.reasons


def test_a_given_map_is_judged_by_structures(drawn: SyntheticPair, by_structures: tuple[Transform, Quality]) -> None:
    pair = opened(without_nuclei(drawn), BY_STRUCTURES)
    right = by_structures[0]
    off = replace(right, affine=right.affine + np.array([[0, 0, 300.0], [0, 0, 0]]))
    assert assess(pair, right, BY_STRUCTURES).verdict == "warn"
    assert assess(pair, off, BY_STRUCTURES).verdict == "fail"


def test_an_unknown_channel_is_one_line(
    drawn: SyntheticPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(drawn, tmp_path)
    argv = ["inspect", "--slide", "s1", "--patient", "p1", "--sparse", str(tmp_path / "he.tif")]
    argv += ["--dense", str(tmp_path / "if.ome.tif"), "--sparse-mpp", "1.0", "--dense-mpp", "0.8"]
    assert main([*argv, "--out", str(tmp_path / "s1.json")]) == 0
    settings = json.dumps({"engine": "sitk", "channel": "SHG"})
    argv = ["register", "--record", str(tmp_path / "s1.json"), "--settings", settings]
    for output, name in zip(OUTPUTS, NAMES, strict=True):
        argv += [f"--out-{output}", str(tmp_path / name)]
    capsys.readouterr()
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "s1" in line
    assert "one channel named 'SHG'" in line
    assert "CD3, DAPI" in line


def test_without_a_nuclear_channel_or_another_one_nothing_is_registered(drawn: SyntheticPair) -> None:
    with pytest.raises(StatedError, match="a nuclear channel"):
        opened(without_nuclei(drawn), BY_NUCLEI)


@pytest.mark.parametrize("engine", ["blocks", "valis"])
def test_engines_that_match_nuclei_take_no_other_channel(engine: str) -> None:
    with pytest.raises(ValidationError, match="channel needs engine: sitk"):
        RegisterSettings(engine=engine, channel="SHG")  # type: ignore[arg-type]


@pytest.mark.parametrize("contrast", [lambda x: x, lambda x: -x, np.abs], ids=["same", "inverted", "not monotonic"])
def test_a_shift_is_found_whatever_the_contrast(contrast: np.ufunc) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32), (0, 0), 3)
    # The middle of the block lies 5 px to the right of the middle of what it is looked for in, and 2 px above.
    shift, peak, rival = information_shift(noise[38:158, 45:165], contrast(noise), 8)
    assert shift == pytest.approx((5, -2), abs=0.1)
    assert peak > 5 * rival


def test_information_is_that_of_the_joint_histogram() -> None:
    rng = np.random.default_rng(1)
    search = rng.normal(size=(40, 44)).astype(np.float32)
    block = (search[4:34, 5:37] ** 2 + rng.normal(size=(30, 32))).astype(np.float32)
    found = information_of_shifts(block, search)
    assert found.shape == (11, 13)
    classes = [np.searchsorted(np.quantile(image, np.arange(1, 6) / 6), image) for image in (block, search)]
    for row, column in ((0, 0), (4, 5), (10, 12)):
        under = classes[1][row : row + 30, column : column + 32]
        joint = np.histogram2d(classes[0].ravel(), under.ravel(), bins=6, range=[[-0.5, 5.5]] * 2)[0] / block.size
        apart = joint.sum(1)[:, None] * joint.sum(0)
        wanted = float((joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0])).sum())
        # Counts by Fourier transforms of float32 are whole numbers but for 1e-3 of the block.
        assert found[row, column] == pytest.approx(wanted, abs=1e-3)
