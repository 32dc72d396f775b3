"""Save what a run trained besides its encoder: dense encoders, projectors and head, for inspection.

Nobody needs them to use the encoder. They are one file, `branches.safetensors`, under the names of `BranchNetwork`; all
else that rebuilds them is told by `config.json` of the encoder, whose hash the file carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.settings.branches import exported_encoder_name
from pipeline.training.branches import BranchNetwork, build_projector
from pipeline.training.dense_description import DenseDescription
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.parts import Link
from pipeline.training.views import ChannelChoice

BRANCHES_NAME = "branches.safetensors"
_OF_HASH = "encoder_sha256"
_BATCH = 128


def write_branches(path: Path, network: BranchNetwork, encoder_sha256: str) -> None:
    """Write all of a network but the encoder that it yields; of one that saw H&E alone nothing but the hash."""
    kept = {}
    if network.head is not None or any(branch.modality == "dense" for branch in network.branches):
        state, exported = network.state_dict().items(), f"encoders.{exported_encoder_name(network.branches)}."
        kept = {key: value.detach().cpu().contiguous() for key, value in state if not key.startswith(exported)}
    with finished(path) as temporary:
        # One key only: safetensors writes several in an order that changes from process to process.
        temporary.write_bytes(save(kept, metadata={_OF_HASH: encoder_sha256}))


class KeptBranches:
    """The sparse projectors and the dense branches of a trained run, in evaluation mode.

    Of a run with one link embeddings are the projectors', in the columns that were aligned. Of one with several, a
    dense encoder or a projector each, they are those of each link one after the other, each of length 1: the cosine of
    two of them is the mean of the links' cosines, so that every component of the dense side counts alike, however many
    columns it has and however long its embeddings are.

    Args:
        description: of the run.
        dense_encoders: by name.
        projectors: by name.
        device: where they are.
    """

    def __init__(
        self,
        description: DenseDescription,
        dense_encoders: dict[str, nn.Module],
        projectors: dict[str, nn.Module],
        device: torch.device,
    ) -> None:
        self.description = description
        self._device = device
        self._encoders = {name: item.eval().to(device) for name, item in dense_encoders.items()}
        self._projectors = {name: item.eval().to(device) for name, item in projectors.items()}
        self._channels = ChannelChoice(description.components, device)
        colour = description.colour
        self._normalisation = Normalisation(
            ColourStatistics((0.0,) * 3, (1.0,) * 3), description.markers, device, dense_colour=colour
        )

    @classmethod
    def load(cls, path: Path, description: DenseDescription, device: torch.device) -> Self:
        """Return the branches in a file.

        Raises:
            StatedError: if it is none, belongs to another encoder, or does not fit the description.
        """
        expected = f"the branches that were trained beside encoder {description.encoder_sha256[:12]}"
        try:
            with safe_open(path, framework="pt") as file:
                belongs_to = str((file.metadata() or {}).get(_OF_HASH, ""))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        if belongs_to != description.encoder_sha256:
            raise StatedError(file=path, expected=expected, found=f"those of {belongs_to[:12] or 'no encoder'}")
        encoders: dict[str, nn.Module] = {}
        projectors: dict[str, nn.Module] = {}
        try:
            for link in description.links:
                encoder, width = dense_kind(description.kind).build_encoder(
                    description.architecture,
                    description.model_args,
                    description.channels_of(link.dense_encoder),
                    description.input_px,
                )
                encoders[link.dense_encoder] = _loaded(encoder, tensors, f"encoders.{link.dense_encoder}.")
                for name, length in ((link.sparse_projector, description.feature_dim), (link.dense_projector, width)):
                    projector = build_projector(length, description.projector)
                    projectors[name] = _loaded(projector, tensors, f"projectors.{name}.")
        except RuntimeError as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        return cls(description, encoders, projectors, device)

    def project_sparse(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return embeddings (n, E) of sparse features (n, D), in the columns that were aligned with the dense side."""
        known = torch.from_numpy(features).to(self._device)
        links = self.description.links
        return _joined([self._projected(link.sparse_projector, known, link) for link in links])

    def embed_dense(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return embeddings (n, E) of dense patches, in the same columns; for the arguments see `dense_features`."""
        links = self.description.links
        return np.concatenate(
            [
                _joined([self._projected(link.dense_projector, features[link.dense_encoder], link) for link in links])
                for features in self._encoded(pixels, present)
            ]
        )

    def dense_features(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return features (n, F) of the dense encoders, one after the other.

        See `TrainingPatches.dense` for the patches.

        The centre of the patches is seen.

        Args:
            pixels: (n, M, P, P); may be overwritten.
            present: (n, M) which channels are there; the others are masked, as in training.
        """
        return np.concatenate(
            [
                torch.cat(list(features.values()), dim=1).float().cpu().numpy()
                for features in self._encoded(pixels, present)
            ]
        )

    def _encoded(self, pixels: NDArray[np.float32], present: NDArray[np.bool_]) -> Iterator[dict[str, Tensor]]:
        """Yield the features of dense patches by dense encoder, a batch at a time."""
        there = present & (not self.description.blank)
        for start in range(0, len(pixels), _BATCH):
            part = slice(start, start + _BATCH)
            view = self._view(
                torch.from_numpy(pixels[part]).to(self._device), torch.from_numpy(there[part]).to(self._device)
            )
            seen = {name: self._channels.of(name, view) for name in self._encoders}
            with torch.inference_mode():
                yield {
                    name: encoder(seen[name].contiguous(memory_format=torch.channels_last))
                    for name, encoder in self._encoders.items()
                }

    def _view(self, pixels: Tensor, present: Tensor) -> Tensor:
        """Return the centre of dense patches, all of the panel, as the encoders get it, without augmentation."""
        # Counts have no place within a patch that could be left out.
        side = min(self.description.input_px, pixels.shape[-1])
        start = (pixels.shape[-1] - side) // 2
        window = pixels[:, :, start : start + side, start : start + side]
        window = dense_kind(self.description.kind).normalise(window, self._normalisation)
        return torch.where(present[:, :, None, None], window, 0.0)

    def _projected(self, projector: str, features: Tensor, link: Link) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = self._projectors[projector](features).float().cpu().numpy()
        return np.asarray(found[:, link.columns], dtype=np.float32)


def _joined(embeddings: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return one array (n, E) of the embeddings of all links; several get length 1 each."""
    if len(embeddings) == 1:
        return embeddings[0]
    lengths = [np.linalg.norm(values, axis=1, keepdims=True) for values in embeddings]
    return np.concatenate([v / np.where(n > 0, n, 1) for v, n in zip(embeddings, lengths, strict=True)], axis=1)


def _loaded(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> nn.Module:
    """Return the module with the tensors whose names begin so; a RuntimeError where they do not fit."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    module.load_state_dict(own)
    return module
