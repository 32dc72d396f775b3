"""Define the quality of a registration from measured shifts, never fitted ones, and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.areas import Area
from pipeline.registration.coarse import Pose
from pipeline.registration.deformable import MIN_BLOCKS, Measured
from pipeline.registration.displacement import Floats
from pipeline.registration.piecewise import Seams
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

# Of one section most blocks support the true map. Of unrelated tissue some do by chance: clear peaks lie anywhere in
# the reach, hence one in eleven within a third of it.
MIN_SUPPORT = 0.15
CHANCE_AGREEMENT = np.pi / 36
MAX_CHANCE = 1e-4
GOOD_SUPPORT = 0.4
# True pairs reached a margin of 0.17 and more, wrong ones at most 0.07.
MIN_NCC = 0.4
MIN_MARGIN = 0.1
DECISIVE_MARGIN = 0.15
MAX_FOLDS = 0.01
MAX_SCALE_ERROR = 0.1


@dataclass(frozen=True)
class Residual:
    """Distances in um of held-out blocks from where a map puts them.

    Attributes:
        median_um: nan where there are no blocks.
        p90_um: nan where there are no blocks.
    """

    median_um: float
    p90_um: float


UNKNOWN = Residual(float("nan"), float("nan"))


@dataclass(frozen=True)
class StepQuality:
    """One step of an engine, with the held-out residual before and after it."""

    name: str
    accepted: bool
    blocks: int
    before: Residual
    after: Residual


@dataclass(frozen=True)
class PieceQuality:
    """A part of the tissue that is registered separately.

    Attributes:
        area: how much tissue it is, and where.
        shift_um: how far it lies from where the map of the largest part would put it.
        degrees: how far it is turned against the largest part.
        straight_edge: the lines of the dense slide along which it ends, as a field of a mosaic does (`x = 1800 um and
            x = 3100 um`); empty where it ends otherwise.
    """

    area: Area
    shift_um: float
    degrees: float
    straight_edge: str = ""


@dataclass(frozen=True, eq=False)
class Quality:
    """What qc.json says of one slide, apart from provenance and cost.

    Attributes:
        mode: `same-section` or `serial`.
        engine: `blocks`, `sitk` or `valis`, or `given` for a transform that was not computed here.
        verdict: `pass`, `warn` or `fail`.
        reasons: one sentence each; for `pass` none but how much tissue lies beyond the dense slide.
        channel: name of the dense channel that showed the nuclei; `hematoxylin` of brightfield, `mask`, or `spots`.
        pose: of the search; None where there was none.
        margin: correlation above the best other pose; None where there was no search.
        steps: in order.
        held_out: residual of the final map at blocks not used for fitting.
        scale: true um per stated um of the dense slide; None for a map that the blocks do not support.
        support: fraction of held-out blocks that show a clear peak in agreement with the map.
        supported: whether these are enough, and more than chance would bring.
        determinant_range: least and greatest det J, mirror taken out.
        fold_fraction: fraction of the grid's cells in which det J changes sign.
        round_trip_um: greatest distance after there and back.
        block_um: (N, 2) centres of the measured blocks, sparse frame.
        block_side_um: side of a block.
        block_residual_um: (N,), nan where the block showed no clear peak.
        nuclei: whether blocks were compared by their nuclei; otherwise by the structures that `channel` shows.
        areas: where nuclei abound and nothing agrees with the map, largest first.
        pieces: parts that are registered by themselves.
        outside_share: of the tissue, what the map puts beyond the edge of the dense slide; None for a map that the
            blocks do not support.
        not_imaged_share: of the tissue, what the map puts where the dense slide was never imaged; None likewise.
    """

    mode: str
    engine: str
    verdict: str
    reasons: tuple[str, ...]
    channel: str
    pose: Pose | None
    margin: float | None
    steps: tuple[StepQuality, ...]
    held_out: Residual
    scale: float | None
    support: float
    supported: bool
    determinant_range: tuple[float, float]
    fold_fraction: float
    round_trip_um: float
    block_um: Floats
    block_side_um: float
    block_residual_um: Floats
    areas: tuple[Area, ...] = ()
    pieces: tuple[PieceQuality, ...] = ()
    nuclei: bool = True
    outside_share: float | None = None
    not_imaged_share: float | None = None


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Where held-out blocks were found, independent of the map that is judged by them.

    Attributes:
        sparse_um: (N, 2) block centres.
        dense_um: (N, 2) where their nuclei lie in the dense frame.
        trusted: (N,) whether the peak stands out.
    """

    sparse_um: Floats
    dense_um: Floats
    trusted: NDArray[np.bool_]

    @classmethod
    def of(cls, measured: Measured, transform: Transform, rows: NDArray[np.bool_]) -> Correspondences:
        """Return those of some blocks, measured under a transform."""
        shifts = measured.shifts.chosen(rows)
        return cls(shifts.centre_um, transform.to_dense(shifts.centre_um + shifts.shift_um), measured.trusted[rows])

    def chosen(self, rows: NDArray[np.bool_]) -> Correspondences:
        """Return some of the blocks."""
        return Correspondences(self.sparse_um[rows], self.dense_um[rows], self.trusted[rows])

    @classmethod
    def joined(cls, parts: Sequence[Correspondences]) -> Correspondences:
        """Return all blocks of several parts."""
        names = ("sparse_um", "dense_um", "trusted")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def distances_um(self, transform: Transform) -> Floats:
        """Return (N,) distances from where a transform puts the blocks; nan for blocks without a clear peak."""
        distance = np.linalg.norm(transform.to_dense(self.sparse_um) - self.dense_um, axis=1)
        return np.where(self.trusted, distance, np.nan)

    def residual(self, transform: Transform) -> Residual:
        """Return median and 90th percentile of the distances; nan where too few blocks have a clear peak."""
        distances = self.distances_um(transform)[self.trusted]
        if len(distances) < MIN_BLOCKS // 2:
            return UNKNOWN
        median, p90 = np.percentile(distances, (50, 90))
        return Residual(float(median), float(p90))

    def chance(self, transform: Transform, within_um: float, independent: float = 1.0) -> float:
        """Return the chance that as many clear peaks lie that near to a map if they lay anywhere in the reach.

        Args:
            transform: the map.
            within_um: how near.
            independent: share of the blocks that count; overlapping ones say the same thing twice.
        """
        distances = self.distances_um(transform)[self.trusted]
        agreeing, count = np.count_nonzero(distances <= within_um), len(distances)
        # Importing it takes longer than many of the stages that use the rest of this module.
        from scipy.stats import binom

        return float(binom.sf(np.floor(agreeing * independent) - 1, np.ceil(count * independent), CHANCE_AGREEMENT))

    def support(self, transform: Transform, within_um: float) -> float:
        """Return fraction of the blocks that have a clear peak within a distance of where a transform puts them."""
        if not len(self.trusted):
            return 0.0
        with np.errstate(invalid="ignore"):
            return float(np.mean(self.distances_um(transform) <= within_um))


def fold_fraction(transform: Transform, seams: Seams | None = None) -> float:
    """Return the share of the grid's cells off seams in which the map is turned over against the rest."""
    return float(np.mean(_unmirrored(transform, seams) <= 0))


def determinant_range(transform: Transform, seams: Seams | None = None) -> tuple[float, float]:
    """Return least and greatest det J, mirror taken out and cells on a seam left out."""
    determinants = _unmirrored(transform, seams)
    return float(determinants.min()), float(determinants.max())


def believed(mode: str, support: float, chance: float, pose: Pose | None, margin: float | None) -> bool:
    """Return whether a map may be used: enough blocks agree with it, and not by chance.

    Neighbouring sections are compared by large blocks, of which a small slide has too few to rule chance out; there a
    search that clearly stands out will do instead.
    """
    decisive = pose is not None and margin is not None and pose.ncc >= MIN_NCC and margin >= DECISIVE_MARGIN
    return support >= MIN_SUPPORT and (chance <= MAX_CHANCE or (mode == "serial" and decisive))


def verdict(
    settings: RegisterSettings,
    *,
    held_out: Residual,
    support: float,
    chance: float,
    scale: float | None,
    folds: float,
    determinants: tuple[float, float],
    pose: Pose | None,
    margin: float | None,
    searched: bool,
    signal: str = "nuclear signal",
) -> tuple[str, tuple[str, ...]]:
    """Return `pass`, `warn` or `fail`, with the reasons.

    See `believed` for what the blocks and the search have to show.
    """
    fails: list[str] = []
    warns: list[str] = []
    if not support >= MIN_SUPPORT:
        fails.append(f"only {support:.0%} of the held-out blocks agree with the map, {MIN_SUPPORT:.0%} are needed")
    elif chance > MAX_CHANCE:
        doubt = f"the few held-out blocks that agree with the map may do so by chance (p = {chance:.1g})"
        (warns if believed(settings.mode, support, chance, pose, margin) else fails).append(doubt)
    elif support < GOOD_SUPPORT:
        warns.append(f"only {support:.0%} of the held-out blocks agree with the map")
    warn_um, fail_um = settings.limits_um
    if held_out.median_um > fail_um:
        fails.append(f"median held-out residual {held_out.median_um:.1f} um exceeds {fail_um:g} um")
    elif held_out.median_um > warn_um:
        warns.append(f"median held-out residual {held_out.median_um:.1f} um exceeds {warn_um:g} um")
    if scale is not None and abs(scale - 1) > MAX_SCALE_ERROR:
        fails.append(
            f"the images match at {scale:.3f} times the stated dense um per pixel, "
            f"more than {MAX_SCALE_ERROR:.0%} off: correct sparse_mpp or dense_mpp"
        )
    if folds > MAX_FOLDS:
        fails.append(f"the map folds in {folds:.1%} of its cells")
    elif folds > 0 or not 0.5 <= determinants[0] <= determinants[1] <= 2:
        warns.append(f"det J ranges from {determinants[0]:.2f} to {determinants[1]:.2f}")
    if searched and (pose is None or margin is None):
        fails.append(f"an image without any {signal}")
    elif pose is not None and margin is not None and (pose.ncc < MIN_NCC or margin < MIN_MARGIN):
        doubt = (
            f"search not decisive: correlation {pose.ncc:.2f} (needs {MIN_NCC}), "
            f"margin {margin:.2f} (needs {MIN_MARGIN})"
        )
        warns.append(doubt)
    if fails:
        return "fail", tuple(fails + warns)
    return ("warn", tuple(warns)) if warns else ("pass", ())


def doubted(quality: Quality, doubts: tuple[str, ...]) -> Quality:
    """Return the quality with further reasons, at best `warn` where there are any."""
    if not doubts:
        return quality
    grade = "warn" if quality.verdict == "pass" else quality.verdict
    return replace(quality, verdict=grade, reasons=(*quality.reasons, *doubts))


def _unmirrored(transform: Transform, seams: Seams | None) -> Floats:
    determinants = transform.jacobian_determinants()
    if seams is not None:
        determinants = determinants[seams.sparse.whole]
    unmirrored: Floats = determinants * np.sign(np.linalg.det(transform.affine[:, :2]))
    return unmirrored
