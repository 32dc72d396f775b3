"""Locate the inputs that a result names by hash in the results folder, and hash each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.provenance import file_digest
from pipeline.slides.record import read_record
from pipeline.slides.stage import source_digest
from pipeline.splitting.stage import read_slide_patches

Settings = Mapping[str, Any]
# As in pipeline.training.encoders, which imports torch.
WEIGHTS_NAME = "model.safetensors"


class Digest(Protocol):
    """A function that hashes a file or folder in the way that a stage does."""

    __qualname__: str

    def __call__(self, path: Path, /) -> str:
        """Return the hash."""
        ...


@dataclass(frozen=True)
class Input:
    """One input of a result.

    Attributes:
        name: as the result calls it.
        wanted: the hash that the result names.
        path: where it is expected; None where nothing tells.
        digest: how it is hashed.
        leaf: whether it is not a result of ours, but a slide, a table or a sheet.
    """

    name: str
    wanted: str
    path: Path | None
    digest: Digest
    leaf: bool


Finder = Callable[[Path, Mapping[str, str], Settings], Iterator[Input]]


def inputs_of(stage: str, result: Path, named: Mapping[str, str], settings: Settings) -> list[Input]:
    """Return the inputs of a result of `stage`, in the order in which it names them.

    Args:
        stage: that left the result.
        result: file or folder.
        named: hash by name of what it says it was made from.
        settings: that it says it was made with; some of them are the path of an input.
    """
    find = _FINDERS.get(stage, _unknown)
    return list(find(result, named, settings))


def results_folder(result: Path, stage: str) -> Path:
    """Return the results folder that a result lies in: above the folder that is named for its stage."""
    place = stage.split("_")[0]
    for folder in result.absolute().parents:
        if folder.name == place:
            return folder.parent
    return result.absolute().parent


def _unknown(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    for name, wanted in named.items():
        yield Input(name, wanted, None, file_digest, leaf=True)


def _slides(record: Path, named: Mapping[str, str]) -> Iterator[Input]:
    """Yield the images of a slide, as its record names them."""
    known = read_record(record) if record.is_file() else None
    paths = {"sparse": known.sparse.path, "dense": known.dense.path if known.dense else ""} if known else {}
    if known and known.transform != "identity":
        paths["transform"] = known.transform
    for name, wanted in named.items():
        digest = file_digest if name in ("transform", "markers") else source_digest
        yield Input(name, wanted, Path(paths[name]) if paths.get(name) else None, digest, leaf=True)


def _of_inspect(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    return _slides(result, named)


def _of_register(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    slide = result.absolute().parent.name
    record = results_folder(result, "register") / "inspect" / f"{slide}.json"
    yield from _slides(record, {name: wanted for name, wanted in named.items() if wanted})


def _of_tile(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    root, slide = results_folder(result, "tile"), result.stem
    images = {name: wanted for name, wanted in named.items() if name in ("sparse", "dense")}
    yield from _slides(root / "inspect" / f"{slide}.json", images)
    if "transform" in named:
        path = root / "register" / slide / "transform.zarr"
        yield Input("transform", named["transform"], path, file_digest, leaf=False)
    if "panel" in named:
        yield Input("panel", named["panel"], root / "panel" / f"{slide}.json", file_digest, leaf=False)
    if "tissue" in named:
        # The sheet has its path, the store its hash only.
        yield Input("tissue", named["tissue"], None, file_digest, leaf=True)


def _of_panel(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    return _slides(results_folder(result, "panel") / "inspect" / result.name, named)


def _of_split(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    stores = results_folder(result, "split") / "tile"
    for slide, wanted in named.items():
        yield Input(slide, wanted, stores / f"{slide}.zarr", _positions, leaf=False)


def _of_train(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    root = results_folder(result, "train")
    for name, wanted in named.items():
        if name == "split":
            yield Input(name, wanted, root / "split" / "patches.tsv", file_digest, leaf=False)
        elif name.startswith("classes/"):
            # The sheet has the paths of tables of classes, the result their hashes only.
            yield Input(name, wanted, None, file_digest, leaf=True)
        elif name == "weights" and settings.get("weights"):
            yield Input(name, wanted, Path(settings["weights"]) / WEIGHTS_NAME, file_digest, leaf=False)
        else:
            yield Input(name, wanted, root / name, _described, leaf=False)


def _of_embed(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    root = results_folder(result, "embed")
    for name, wanted in named.items():
        if name == "store":
            yield Input(name, wanted, root / "tile" / f"{result.stem}.zarr", _described, leaf=False)
        else:
            own, given = root / "train" / result.absolute().parent.name / "encoder", Path(str(settings.get("encoder")))
            folder = given if given.is_dir() and not own.is_dir() else own
            # One that was handed on without the results of its cohort is known by its hash, its own inputs are not.
            is_handed_on = folder.absolute().parents[1].name != "train"
            yield Input(name, wanted, folder, _weights, leaf=is_handed_on)


def _of_embed_slides(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    split = results_folder(result, "embed") / "split" / "patches.tsv"
    for name, wanted in named.items():
        yield Input(name, wanted, split if name == "split" else result.parent / name, file_digest, leaf=False)


def _of_predict(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
    folder = result.absolute() if result.is_dir() else result.absolute().parent
    root, run, slide = results_folder(result, "predict"), folder.parent.name, folder.name
    own = root / "evaluate" / "probes" / run
    # A probe from elsewhere is known by its hash only.
    paths = {"store": root / "tile" / f"{slide}.zarr", "features": root / "embed" / run / f"{slide}.h5"}
    paths |= {"probe": own} if own.is_dir() else {}
    for name, wanted in named.items():
        yield Input(name, wanted, paths.get(name), _described if name == "store" else file_digest, leaf=False)


def _by_path(stage: str) -> Finder:
    """Yield inputs named by their path below the results folder; a store by what it says of itself."""

    def find(result: Path, named: Mapping[str, str], settings: Settings) -> Iterator[Input]:
        root = results_folder(result, stage)
        for name, wanted in named.items():
            path = root / ("split/patches.tsv" if name == "patches.tsv" else name)
            # The sheet and the configuration have the paths of tables, the result their hashes only.
            is_leaf = name in ("sheet", "table") or name.startswith("classes/")
            digest = _described if path.suffix == ".zarr" else file_digest
            yield Input(name, wanted, None if is_leaf else path, digest, leaf=is_leaf)

    return find


def _positions(store: Path) -> str:
    """Hash of a store's positions and qualities, by which split names it."""
    return read_slide_patches(store).digest


def _described(store: Path) -> str:
    """Hash of what a store says of itself, by which the stages after it name it."""
    return file_digest(store / "zarr.json")


def _weights(encoder: Path) -> str:
    """Hash of an encoder's weights as they are, not as its config.json has it."""
    return file_digest(encoder / WEIGHTS_NAME)


_FINDERS: Mapping[str, Finder] = {
    "inspect": _of_inspect,
    "panel": _of_panel,
    "register": _of_register,
    "tile": _of_tile,
    "split": _of_split,
    "train": _of_train,
    "embed": _of_embed,
    "embed_slides": _of_embed_slides,
    "evaluate": _by_path("evaluate"),
    "evaluate_probe": _by_path("evaluate_probe"),
    "predict": _of_predict,
    "outcomes": _by_path("outcomes"),
    "report": _by_path("report"),
}
