"""Pairs that tempt a registration to be wrong without saying so, each drawn with its truth.

A try is silent if the verdict lets its pairs through although they are wrong; it is lost if a pair that can be
registered fails. Which of the two a case may be stands with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from array_slide import ArraySlide
from numpy.typing import NDArray
from synthetic_pair import SyntheticPair, Truth, smooth_noise, synthetic_pair

from pipeline.registration.blocks_engine import align
from pipeline.registration.pair import Pair
from pipeline.registration.quality import Quality
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

Wanted = Literal["right", "fail", "either"]
SAME_SECTION_UM = (1.0, 3.0)
# Neighbouring sections share the density of nuclei, not the nuclei.
SERIAL_UM = (15.0, 40.0)
SIDE_UM = 1024


@dataclass(frozen=True, eq=False)
class Try:
    """One pair and what may come of it.

    Attributes:
        case: its kind.
        pair: with the mpp that is stated, true or not.
        wanted: `right`, `fail`, or `either`.
        settings: of the stage.
        scale: true um per stated um of the dense slide.
    """

    case: str
    pair: SyntheticPair
    wanted: Wanted
    settings: RegisterSettings = field(default_factory=RegisterSettings)
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a try.

    Attributes:
        tried: the try.
        quality: as reported.
        median_um: error at nuclei that the map puts on the dense slide; nan where there is no truth or no nucleus.
        p90_um: likewise.
        right: whether it is within the limits of the mode.
    """

    tried: Try
    quality: Quality
    median_um: float
    p90_um: float
    right: bool

    @property
    def silent(self) -> bool:
        """Whether wrong pairs would be used."""
        return self.quality.verdict != "fail" and (self.tried.wanted == "fail" or not self.right)

    @property
    def lost(self) -> bool:
        """Whether a pair that can be registered is refused."""
        return self.quality.verdict == "fail" and self.tried.wanted == "right"


def outcome(tried: Try) -> Outcome:
    """Registers the pair of a try and compares with its truth, only where pairs would be used."""
    drawn = tried.pair
    transform, quality = align(
        Pair.of(drawn.sparse, drawn.dense, drawn.mpp, tried.settings.nuclear_channel), tried.settings
    )
    median, p90 = used_error_um(drawn, transform)
    limits = SERIAL_UM if tried.settings.mode == "serial" else SAME_SECTION_UM
    return Outcome(tried, quality, median, p90, median <= limits[0] and p90 <= limits[1])


def used_error_um(drawn: SyntheticPair, transform: Transform) -> tuple[float, float]:
    """Median and 90th percentile of the error at nuclei that the map puts on the dense slide."""
    found = transform.to_dense(drawn.nuclei_um)
    high = np.array(drawn.dense.header.size_xy) * drawn.mpp[1]
    used = ((found >= 0) & (found <= high)).all(1)
    if not used.any():
        return float("nan"), float("nan")
    error = np.linalg.norm(found[used] - drawn.truth(drawn.nuclei_um[used]), axis=1)
    median, p90 = np.percentile(error, (50, 90))
    return float(median), float(p90)


def tries(count: int, cases: dict[str, Callable[[int], Try]] | None = None) -> Iterator[Try]:
    """That many tries, the cases in turn, each time of another seed."""
    makers = list((cases or CASES).values())
    for number in range(count):
        yield makers[number % len(makers)](number // len(makers))


@lru_cache(maxsize=4)
def _drawn(seed: int) -> SyntheticPair:
    rng = np.random.default_rng(500 + seed)
    degrees, mirrored = float(rng.uniform(-180, 180)), bool(rng.integers(2))
    return synthetic_pair(
        40_000 + seed,
        degrees=degrees,
        mirrored=mirrored,
        deformation_um=float(rng.uniform(8, 20)),
        shared=float(rng.uniform(0.7, 0.98)),
        side_um=SIDE_UM,
    )


def _stack(drawn: SyntheticPair) -> NDArray[np.uint16]:
    whole: NDArray[np.uint16] = drawn.dense.read_region(0, (0, 0), drawn.dense.header.size_xy)
    return whole


def _with_dense(
    drawn: SyntheticPair, stack: NDArray[Any], shift_um: NDArray[np.float64] | None = None
) -> SyntheticPair:
    truth = drawn.truth
    if shift_um is not None:
        truth = Truth(truth.matrix, truth.centre_um, truth.shift_um - shift_um, truth.waves)
    dense = ArraySlide(
        np.ascontiguousarray(stack).astype(np.uint16), mpp=drawn.mpp[1], downsamples=(1, 2, 4), channels=("CD3", "DAPI")
    )
    return replace(drawn, dense=dense, truth=truth)


def any_pose(seed: int) -> Try:
    """Any rotation, mirrored or not."""
    return Try("any rotation and mirror", _drawn(seed), "right")


def wrong_pair(seed: int) -> Try:
    """The dense slide of other tissue, in either mode."""
    settings = RegisterSettings(mode="serial" if seed % 2 else "same-section")
    drawn = replace(_drawn(seed), dense=_drawn(seed + 1).dense)
    return Try(f"wrong pair, {settings.mode}", drawn, "fail", settings)


def blank(seed: int) -> Try:
    """A dense slide without nuclei: only noise, uneven light, or a haze of tissue."""
    drawn, rng = _drawn(seed), np.random.default_rng(seed)
    shape = _stack(drawn).shape[:2]
    light = [np.full(shape, 300.0), 300 + 150 * smooth_noise(rng, shape, 200)]
    haze = cv2.GaussianBlur(_stack(drawn)[..., 1].astype(np.float32), (0, 0), 60.0)
    signal = [*light, 200 + 0.2 * haze][seed % 3]
    stack = np.repeat(rng.poisson(np.maximum(signal, 1))[..., None], 2, axis=2)
    return Try("blank dense slide", _with_dense(drawn, stack), "fail")


def third(seed: int) -> Try:
    """A dense slide that covers a third of the nuclei: a strip from either side or from the middle."""
    drawn, stack = _drawn(seed), _stack(_drawn(seed))
    axis, place = seed % 2, seed // 2 % 3
    along = drawn.truth(drawn.nuclei_um)[:, axis] / drawn.mpp[1]
    first, last = np.quantile(along, ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))[place]).astype(int)
    corner = np.zeros(2)
    corner[axis] = first * drawn.mpp[1]
    cut = stack[:, first:last] if axis == 0 else stack[first:last]
    return Try("dense slide over a third", _with_dense(drawn, cut, corner), "right")


def swapped_channel(seed: int) -> Try:
    """A membrane marker of some cells, stated as nuclear."""
    drawn, rng = _drawn(seed), np.random.default_rng(seed)
    stack = _stack(drawn)
    cells = cv2.GaussianBlur(np.zeros(stack.shape[:2], np.float32), (0, 0), 1)
    field = smooth_noise(rng, (SIDE_UM // 8, SIDE_UM // 8), 10)
    row, column = np.clip(drawn.nuclei_um[:, ::-1] // 8, 0, SIDE_UM // 8 - 1).astype(int).T
    positive = (field[row, column] > 0.3) & (rng.uniform(size=len(row)) < 0.7)
    places = drawn.truth(drawn.nuclei_um[positive] + rng.normal(0, 1.5, (int(positive.sum()), 2))) / drawn.mpp[1]
    for x, y in np.rint(places).astype(int).tolist():
        cv2.circle(cells, (x, y), round(6.5 / drawn.mpp[1]), float(rng.uniform(0.3, 1)), 2, cv2.LINE_AA)
    haze = cv2.GaussianBlur(stack[..., 1].astype(np.float32), (0, 0), 25.0)
    stack[..., 0] = rng.poisson(200 + 3000 * cv2.GaussianBlur(cells, (0, 0), 0.8) + 0.1 * haze)
    return Try("swapped channel", _with_dense(drawn, stack), "either", RegisterSettings(nuclear_channel="CD3"))


SCALES = (1.13, 0.87, 1.3, 0.75, 1.6, 0.5)


def wrong_mpp(seed: int) -> Try:
    """A dense mpp that is stated wrongly by 13 % to a factor of two."""
    drawn, factor = _drawn(seed), SCALES[seed % len(SCALES)]
    stated = replace(drawn, mpp=(drawn.mpp[0], drawn.mpp[1] / factor))
    return Try("dense mpp stated wrongly", stated, "fail", scale=factor)


def turned_by_scanner(seed: int) -> Try:
    """The dense pixels stored in another of the eight orientations of a TIFF."""
    drawn, stack = _drawn(seed), _stack(_drawn(seed))
    turns, flipped = seed % 4, bool(seed // 4 % 2)
    truth = drawn.truth
    width = stack.shape[1]
    if flipped:
        stack = stack[:, ::-1]
        truth = _followed(truth, np.diag([-1.0, 1.0]), np.array([(width - 1) * drawn.mpp[1], 0.0]))
    for _ in range(turns):
        # np.rot90 carries the pixel in column x, row y to column y, row W - 1 - x.
        truth = _followed(
            truth, np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([0.0, (stack.shape[1] - 1) * drawn.mpp[1]])
        )
        stack = np.rot90(stack)
    return Try("turned by the scanner", replace(_with_dense(drawn, stack), truth=truth), "right")


def _followed(truth: Truth, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Truth:
    waves = truth.waves.copy()
    waves[:, 3:] = waves[:, 3:] @ matrix.T
    return Truth(matrix @ truth.matrix, truth.centre_um, matrix @ truth.shift_um + shift, waves)


def neighbouring_section(seed: int) -> Try:
    """Other nuclei of the same tissue, stated as the same section, and in its own mode."""
    rng = np.random.default_rng(700 + seed)
    drawn = synthetic_pair(
        50_000 + seed,
        degrees=float(rng.uniform(-180, 180)),
        mirrored=bool(rng.integers(2)),
        section_seed=seed,
        side_um=SIDE_UM,
    )
    if seed % 2:
        return Try("neighbouring section, serial", drawn, "right", RegisterSettings(mode="serial"))
    return Try("neighbouring section, same-section", drawn, "fail")


CASES: dict[str, Callable[[int], Try]] = {
    "pose": any_pose,
    "wrong": wrong_pair,
    "blank": blank,
    "third": third,
    "channel": swapped_channel,
    "mpp": wrong_mpp,
    "turned": turned_by_scanner,
    "neighbour": neighbouring_section,
}
