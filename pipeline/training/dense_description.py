"""Read from an encoder's `config.json` what rebuilds the dense branches it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.errors import StatedError
from pipeline.json_file import checked_as, read_json
from pipeline.limits import LARGEST_PATCH_PX, MAX_FEATURES, MAX_MARKERS
from pipeline.settings.branches import read_branches
from pipeline.training.components import Components
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.encoder_folder import CONFIG_NAME, CONFIG_SCHEMA
from pipeline.training.model_arguments import ModelArguments, checked_model_arguments
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics
from pipeline.training.parts import Link, links_of


@dataclass(frozen=True)
class _Patch:
    input_px: int


@dataclass(frozen=True)
class _Settings:
    branches: Any
    projector: tuple[int, ...]
    alignment: str
    pairing: str


@dataclass(frozen=True)
class _Dense:
    kind: str
    panel: tuple[str, ...]
    components: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Own:
    schema: int
    weights_sha256: str
    feature_dim: int
    patch: _Patch
    settings: _Settings
    dense: _Dense | None
    markers: tuple[MarkerStatistics, ...]


@dataclass(frozen=True)
class _Config:
    architecture: str
    more_from_less: _Own


@dataclass(frozen=True)
class DenseDescription:
    """What `config.json` of an encoder says of the dense branches that it was trained beside.

    Attributes:
        architecture: timm name of the encoders of images.
        model_args: what they have other than timm's architecture of that name.
        encoder_sha256: hash of the sparse encoder's weights.
        feature_dim: length of a sparse feature vector.
        input_px: side of the central part of a patch that the encoders see.
        projector: widths of the projectors' layers.
        links: the dense encoders, with where training brought them and the encoder together.
        kind: `fluorescence`, `brightfield`, `mask` or `counts`.
        panel: markers, stains, classes or genes that the dense branches see, in the order of their channels.
        components: the dense encoders that see a part of the panel, and which.
        blank: whether it was trained on blank patches, a control.
        markers: statistics of fluorescence and of counts.
        colour: statistics of brightfield.
    """

    architecture: str
    model_args: ModelArguments
    encoder_sha256: str
    feature_dim: int
    input_px: int
    projector: tuple[int, ...]
    links: tuple[Link, ...]
    kind: str
    panel: tuple[str, ...]
    components: Components
    blank: bool
    markers: tuple[MarkerStatistics, ...]
    colour: ColourStatistics | None

    @property
    def channels(self) -> int:
        """Of the dense side."""
        return dense_kind(self.kind).channels(len(self.panel))

    def channels_of(self, encoder: str) -> int:
        """Return the number of channels that the dense encoder of that name sees."""
        return len(self.components[encoder]) if encoder in self.components else self.channels

    @classmethod
    def read(cls, encoder: Path) -> Self | None:
        """Return what an encoder's folder says; None where it was trained without a dense branch.

        Raises:
            StatedError: if the folder is not an encoder's.
        """
        path = encoder / CONFIG_NAME
        try:
            value = read_json(path)
            config = checked_as(value, _Config)
            own = config.more_from_less
            if own.schema != CONFIG_SCHEMA:
                raise ValueError(f"schema {own.schema}")
            settings, dense = own.settings, own.dense
            branches = read_branches(settings.branches)
            if all(branch.modality != "dense" for branch in branches):
                return None
            if dense is None:
                raise ValueError("a dense branch without a dense side")
            projector, panel = settings.projector, dense.panel
            _check_widths((own.feature_dim, *projector))
            found = cls(
                architecture=config.architecture,
                model_args=checked_model_arguments(value),
                encoder_sha256=own.weights_sha256,
                feature_dim=own.feature_dim,
                input_px=own.patch.input_px,
                projector=projector,
                links=links_of(branches, settings.alignment, projector[-1]),
                kind=dense.kind,
                panel=panel,
                components=_components(dense.components, panel),
                blank=settings.pairing == "blank",
                markers=own.markers,
                colour=ColourStatistics(dense.mean, dense.std) if dense.mean and dense.std else None,
            )
            _check_sizes(found)
        except (OSError, ValueError) as error:
            raise StatedError(file=path, expected="an encoder folder as train writes it", found=str(error)) from None
        return found


def _components(given: Mapping[str, tuple[str, ...]], panel: tuple[str, ...]) -> Components:
    """Return by the name of each dense encoder that sees a part of the panel the indices of its markers there."""
    unknown = [marker for markers in given.values() for marker in markers if marker not in panel]
    if unknown:
        raise ValueError(f"a component with marker {unknown[0]!r:.80}, which is not in the panel")
    index = {marker: number for number, marker in enumerate(panel)}
    found = {encoder: tuple(index[marker] for marker in markers) for encoder, markers in given.items()}
    if any(not indices or len(set(indices)) < len(indices) for indices in found.values()):
        raise ValueError("a component without markers, or with one twice")
    return found


def _check_widths(widths: Sequence[int]) -> None:
    """Refuse lengths of vectors, of the features and of the projectors' layers, that no training has."""
    if len(widths) < 2 or not all(1 <= width <= MAX_FEATURES for width in widths):
        raise ValueError(f"{widths[0]} features and a projector of {list(widths[1:])}")


def _check_sizes(found: DenseDescription) -> None:
    """Refuse sizes that no training has, before networks for them are built."""
    if not 1 <= found.input_px <= LARGEST_PATCH_PX or not 1 <= found.channels <= MAX_MARKERS:
        raise ValueError(f"{found.channels} dense channels of {found.input_px} px")
    normalised_by = dense_kind(found.kind).normalised_by
    if normalised_by == "markers" and len(found.markers) != len(found.panel):
        raise ValueError(f"statistics of {len(found.markers)} of {len(found.panel)} markers")
    if normalised_by == "colour" and found.colour is None:
        raise ValueError(f"no mean and std of a {found.kind} dense side")
