"""What a run trained besides its sparse encoder: the dense encoder and the projectors, kept to look into the run.

Nobody needs them to use the encoder. They are one file, `branches.safetensors`, under the names of `BranchNetwork`; all
else that rebuilds them is told by `config.json` of the encoder, whose hash the file carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import BROKEN_INPUT, StatedError
from pipeline.json_file import read_json
from pipeline.limits import LARGEST_PATCH_PX, MAX_FEATURES, MAX_MARKERS
from pipeline.provenance import finished
from pipeline.training.branches import BranchNetwork, build_dense_encoder, build_projector
from pipeline.training.encoders import CONFIG_NAME, CONFIG_SCHEMA
from pipeline.training.model_arguments import ModelArguments, checked_model_arguments
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.parts import shared_columns

BRANCHES_NAME = "branches.safetensors"
_OF_ENCODER = "encoders.sparse."
_OF_HASH = "encoder_sha256"
_BATCH = 128


def write_branches(path: Path, network: BranchNetwork, encoder_sha256: str) -> None:
    """Writes all of a network but its sparse encoder; of a run without a dense branch nothing but the hash."""
    kept = {}
    if "dense" in network.branches:
        state = network.state_dict().items()
        kept = {key: value.detach().cpu().contiguous() for key, value in state if not key.startswith(_OF_ENCODER)}
    with finished(path) as temporary:
        # One key only: safetensors writes several in an order that changes from process to process.
        temporary.write_bytes(save(kept, metadata={_OF_HASH: encoder_sha256}))


@dataclass(frozen=True)
class DenseDescription:
    """What `config.json` of an encoder says of the dense branch that it was trained beside.

    Attributes:
        architecture: timm name of the encoders of images.
        model_args: what they have other than timm's architecture of that name.
        encoder_sha256: hash of the sparse encoder's weights.
        feature_dim: length of a sparse feature vector.
        input_px: side of the central part of a patch that the encoders see.
        projector: widths of the projectors' layers.
        columns: of the embedding, those in which a sparse and a dense branch were aligned.
        kind: `fluorescence`, `brightfield`, `mask` or `counts`.
        panel: markers, stains, classes or genes that the dense branch sees, in the order of its channels.
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
    columns: NDArray[np.int64]
    kind: str
    panel: tuple[str, ...]
    blank: bool
    markers: tuple[MarkerStatistics, ...]
    colour: ColourStatistics | None

    @property
    def channels(self) -> int:
        """Of the dense encoder."""
        return 3 if self.kind == "brightfield" else len(self.panel)

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
            if "dense" not in settings["branches"]:
                return None
            found = cls(
                architecture=str(config["architecture"]),
                model_args=checked_model_arguments(config),
                encoder_sha256=str(own["weights_sha256"]),
                feature_dim=int(own["feature_dim"]),
                input_px=int(own["patch"]["input_px"]),
                projector=tuple(map(int, settings["projector"])),
                columns=_columns(settings),
                kind=str(dense["kind"]),
                panel=tuple(map(str, dense["panel"])),
                blank=settings["pairing"] == "blank",
                markers=tuple(MarkerStatistics(**item) for item in own["markers"]),
                colour=ColourStatistics(tuple(dense["mean"]), tuple(dense["std"])) if "mean" in dense else None,
            )
            _check_sizes(found)
        except BROKEN_INPUT as error:
            raise StatedError(file=path, expected="an encoder folder as train writes it", found=repr(error)) from None
        return found


class KeptBranches:
    """The sparse projector and the dense branch of a trained run, in evaluation mode.

    Args:
        description: of the run.
        dense_encoder: of its dense branch.
        projectors: by modality.
        device: where they are.
    """

    def __init__(
        self,
        description: DenseDescription,
        dense_encoder: nn.Module,
        projectors: dict[str, nn.Module],
        device: torch.device,
    ) -> None:
        self.description = description
        self._device = device
        self._encoder = dense_encoder.eval().to(device)
        self._projectors = {name: item.eval().to(device) for name, item in projectors.items()}
        colour = description.colour
        self._normalisation = Normalisation(
            ColourStatistics((0.0,) * 3, (1.0,) * 3), description.markers, device, dense_colour=colour
        )

    @classmethod
    def load(cls, path: Path, description: DenseDescription, device: torch.device) -> Self:
        """The branches in a file.

        Raises:
            StatedError: if it is none, belongs to another encoder, or does not fit the description.
        """
        expected = f"the branches that were trained beside encoder {description.encoder_sha256[:12]}"
        try:
            with safe_open(path, framework="pt") as file:
                belongs_to = str((file.metadata() or {}).get(_OF_HASH, ""))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, *BROKEN_INPUT) as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        if belongs_to != description.encoder_sha256:
            raise StatedError(file=path, expected=expected, found=f"those of {belongs_to[:12] or 'no encoder'}")
        channels, size_px = description.channels, description.input_px
        encoder, width = build_dense_encoder(
            description.architecture, description.model_args, description.kind, channels, size_px
        )
        projectors: dict[str, nn.Module] = {
            "sparse": build_projector(description.feature_dim, description.projector),
            "dense": build_projector(width, description.projector),
        }
        try:
            encoder.load_state_dict(_below(tensors, "encoders.dense."))
            for name, projector in projectors.items():
                projector.load_state_dict(_below(tensors, f"projectors.{name}."))
        except RuntimeError as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        return cls(description, encoder, projectors, device)

    def project_sparse(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (n, E) of features (n, D) of the sparse encoder, in the columns shared with the dense side."""
        return self._projected("sparse", torch.from_numpy(features).to(self._device))

    def embed_dense(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Embeddings (n, E) of dense patches, in the same columns; for the arguments see `dense_features`."""
        return np.concatenate([self._projected("dense", features) for features in self._encoded(pixels, present)])

    def dense_features(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Features (n, F) of the dense encoder, of dense patches (n, M, P, P); see `TrainingPatches.dense`.

        The centre of the patches is seen.

        Args:
            pixels: may be overwritten.
            present: (n, M) which channels are there; the others are masked, as in training.
        """
        return np.concatenate([features.float().cpu().numpy() for features in self._encoded(pixels, present)])

    def _encoded(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> Iterator[Tensor]:
        """The dense encoder's features of dense patches, a batch at a time."""
        there = present & (not self.description.blank)
        for start in range(0, len(pixels), _BATCH):
            part = slice(start, start + _BATCH)
            view = self._view(
                torch.from_numpy(pixels[part]).to(self._device), torch.from_numpy(there[part]).to(self._device)
            )
            with torch.inference_mode():
                features: Tensor = self._encoder(view.contiguous(memory_format=torch.channels_last))
            yield features

    def _view(self, pixels: Tensor, present: Tensor) -> Tensor:
        """The centre of dense patches as the encoder gets it, without augmentation."""
        # Counts have no place within a patch that could be left out.
        side = min(self.description.input_px, pixels.shape[-1])
        start = (pixels.shape[-1] - side) // 2
        window = pixels[:, :, start : start + side, start : start + side]
        if self.description.kind in ("fluorescence", "counts"):
            window = self._normalisation.dense(window)
        elif self.description.kind == "brightfield":
            window = self._normalisation.brightfield(window / 255)
        return torch.where(present[:, :, None, None], window, 0.0)

    def _projected(self, modality: str, features: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = self._projectors[modality](features).float().cpu().numpy()
        return np.asarray(found[:, self.description.columns], dtype=np.float32)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _columns(settings: dict[str, Any]) -> NDArray[np.int64]:
    if settings["alignment"] == "parts":
        return shared_columns(settings["branches"], int(settings["projector"][-1]))
    return np.arange(int(settings["projector"][-1]))


def _check_sizes(found: DenseDescription) -> None:
    """Refuses sizes that no training has, before networks for them are built."""
    if not 1 <= found.input_px <= LARGEST_PATCH_PX or not 1 <= found.channels <= MAX_MARKERS:
        raise ValueError(f"{found.channels} dense channels of {found.input_px} px")
    widths = (found.feature_dim, *found.projector)
    if not found.projector or not all(1 <= width <= MAX_FEATURES for width in widths):
        raise ValueError(f"{found.feature_dim} features and a projector of {found.projector}")
    if found.kind in ("fluorescence", "counts") and len(found.markers) != len(found.panel):
        raise ValueError(f"statistics of {len(found.markers)} of {len(found.panel)} markers")
    if found.kind == "brightfield" and found.colour is None:
        raise ValueError("no mean and std of a brightfield dense side")
