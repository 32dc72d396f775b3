"""What an encoder's `config.json` says of the dense branches that it was trained beside, as far as it rebuilds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.errors import BROKEN_INPUT, StatedError
from pipeline.json_file import read_json
from pipeline.limits import LARGEST_PATCH_PX, MAX_FEATURES, MAX_MARKERS
from pipeline.settings.branches import read_branches
from pipeline.training.components import Components
from pipeline.training.encoders import CONFIG_NAME, CONFIG_SCHEMA
from pipeline.training.model_arguments import ModelArguments, checked_model_arguments
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics
from pipeline.training.parts import Link, links_of


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
        return 3 if self.kind == "brightfield" else len(self.panel)

    def channels_of(self, encoder: str) -> int:
        """Of the dense encoder of that name."""
        return len(self.components[encoder]) if encoder in self.components else self.channels

    @classmethod
    def read(cls, encoder: Path) -> Self | None:
        """What an encoder's folder says; None where it was trained without a dense branch.

        Raises:
            StatedError: if the folder is no encoder's.
        """
        path = encoder / CONFIG_NAME
        try:
            config: dict[str, Any] = read_json(path)
            own = config["more_from_less"]
            if own["schema"] != CONFIG_SCHEMA:
                raise ValueError(f"schema {own['schema']}")
            settings, dense = own["settings"], own["dense"]
            branches = read_branches(settings["branches"])
            if all(branch.modality != "dense" for branch in branches):
                return None
            projector, panel = tuple(map(int, settings["projector"])), tuple(map(str, dense["panel"]))
            _check_widths((int(own["feature_dim"]), *projector))
            found = cls(
                architecture=str(config["architecture"]),
                model_args=checked_model_arguments(config),
                encoder_sha256=str(own["weights_sha256"]),
                feature_dim=int(own["feature_dim"]),
                input_px=int(own["patch"]["input_px"]),
                projector=projector,
                links=links_of(branches, settings["alignment"], projector[-1]),
                kind=str(dense["kind"]),
                panel=panel,
                components=_components(dense, panel),
                blank=settings["pairing"] == "blank",
                markers=tuple(MarkerStatistics(**item) for item in own["markers"]),
                colour=ColourStatistics(tuple(dense["mean"]), tuple(dense["std"])) if "mean" in dense else None,
            )
            _check_sizes(found)
        except BROKEN_INPUT as error:
            raise StatedError(file=path, expected="an encoder folder as train writes it", found=repr(error)) from None
        return found


def _components(dense: dict[str, Any], panel: tuple[str, ...]) -> Components:
    """By the name of each dense encoder that sees a part of the panel, which."""
    place = {marker: index for index, marker in enumerate(panel)}
    found = {
        str(encoder): tuple(place[marker] for marker in markers)
        for encoder, markers in dense.get("components", {}).items()
    }
    if any(not places or len(set(places)) < len(places) for places in found.values()):
        raise ValueError("a component without markers, or with one twice")
    return found


def _check_widths(widths: Sequence[int]) -> None:
    """Refuses lengths of vectors, of the features and of the projectors' layers, that no training has."""
    if len(widths) < 2 or not all(1 <= width <= MAX_FEATURES for width in widths):
        raise ValueError(f"{widths[0]} features and a projector of {list(widths[1:])}")


def _check_sizes(found: DenseDescription) -> None:
    """Refuses sizes that no training has, before networks for them are built."""
    if not 1 <= found.input_px <= LARGEST_PATCH_PX or not 1 <= found.channels <= MAX_MARKERS:
        raise ValueError(f"{found.channels} dense channels of {found.input_px} px")
    if found.kind in ("fluorescence", "counts") and len(found.markers) != len(found.panel):
        raise ValueError(f"statistics of {len(found.markers)} of {len(found.panel)} markers")
    if found.kind == "brightfield" and found.colour is None:
        raise ValueError("no mean and std of a brightfield dense side")
