"""The patches of a patient, from the features that embed wrote of each slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.features_file import check_finite
from pipeline.errors import StatedError
from pipeline.hdf5_file import HDF5_ERRORS, dataset

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Bags:
    """The features files of patients.

    Attributes:
        folder: that holds SLIDE.h5.
        slides: names by patient.
        encoder: hash of the encoder that the slide vectors were made with.
    """

    folder: Path
    slides: Mapping[str, Sequence[str]]
    encoder: str

    def all_of(self, patient: str) -> Features:
        """Return features (N, D) of all patches of a patient.

        Raises:
            StatedError: if a file is absent, broken, of another encoder, or holds what is not finite.
        """
        return np.concatenate([self._read(slide) for slide in self.slides[patient]])

    def drawn(self, patient: str, count: int, rng: np.random.Generator) -> Features:
        """Return features (m, D) of at most `count` patches of a patient, each as likely as any other."""
        features = self.all_of(patient)
        return features if len(features) <= count else features[rng.choice(len(features), count, replace=False)]

    def _read(self, slide: str) -> Features:
        path = self.folder / f"{slide}.h5"
        if not path.is_file():
            raise StatedError(slide=slide, file=path, expected="the features that embed wrote", found="no file")
        try:
            with h5py.File(path) as file:
                features = np.asarray(dataset(file, "features")[...], dtype=np.float32)
                encoder = str(file.attrs.get("encoder", ""))
        except HDF5_ERRORS as error:
            raise StatedError(
                slide=slide, file=path, expected="the features that embed wrote", found=str(error)
            ) from None
        if features.ndim != 2 or not len(features) or encoder != self.encoder:
            found = f"features {features.shape} of encoder {encoder[:12]}"
            expected = f"features (N, D) of encoder {self.encoder[:12]}, as in slides.parquet"
            raise StatedError(slide=slide, file=path, expected=expected, found=found)
        check_finite(features, 0, slide, path)
        return features
