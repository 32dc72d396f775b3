"""`train`: train the sparse encoder of one run on the cohort's pairs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import (
    add_classes,
    add_panel,
    add_settings,
    at_least,
    class_tables_of,
    panel_settings_of,
    settings_of,
)
from pipeline.errors import StatedError
from pipeline.settings import NAME_KEYS, RunSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--run", required=True, dest="name", metavar="NAME", help="name of the run")
    parser.add_argument("--stores", type=Path, required=True, metavar="DIR", help="folder of the stores of tile")
    parser.add_argument("--split", type=Path, required=True, metavar="TSV", help="the patches.tsv of split")
    parser.add_argument("--out-encoder", type=Path, required=True, metavar="DIR", help="the encoder's folder")
    parser.add_argument("--out-metrics", type=Path, required=True, metavar="JSONL", help="one line per epoch")
    parser.add_argument("--out-curve", type=Path, required=True, metavar="PNG", help="picture of the training")
    parser.add_argument(
        "--threads", type=at_least(1), default=1, help="threads of the computation on the CPU, of all processes"
    )
    parser.add_argument(
        "--processes",
        type=at_least(1),
        default=1,
        help="how many processes share each batch, each on a separate GPU where there are any; on several machines "
        "torchrun starts them",
    )
    add_classes(parser, "which a run learns whose target is label")
    add_panel(parser)
    parser.add_argument(
        "--checks", type=Path, metavar="DIR", help="folder of what panel wrote: channels that tell nothing are left out"
    )
    add_settings(parser, RunSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write encoder, metrics and curve."""
    settings, panel, tables = settings_of(parsed, RunSettings), panel_settings_of(parsed), class_tables_of(parsed)
    if parsed.processes > 1:
        from pipeline.training.launching import is_launched, launch

        if not is_launched():
            launch(parsed.argv, parsed.processes)
            return
    from dataclasses import asdict

    import torch

    from pipeline.progress import say
    from pipeline.provenance import file_digest, record
    from pipeline.training.encoder_folder import WEIGHTS_NAME
    from pipeline.training.processes import joined
    from pipeline.training.rows import labelled_rows, read_training_rows, without_class
    from pipeline.training.stage import TrainingOutputs, store_digests, train

    outputs = TrainingOutputs(parsed.out_encoder, parsed.out_metrics, parsed.out_curve)
    with joined() as processes:
        torch.set_num_threads(max(1, parsed.threads // processes.local_count))
        left_out = _left_out(parsed.checks, parsed.stores, parsed.split) if parsed.checks else {}
        if processes.first:
            for slide, names in left_out.items():
                say(f"train {parsed.name}: leaves out {', '.join(names)} of slide {slide}, see panel")
        rows = read_training_rows(
            parsed.split,
            parsed.stores,
            # Labels of a table ask nothing of the dense side.
            branches=settings.encoded if settings.learns_labels else settings.branches,
            batch_size=settings.batch_size,
            markers=settings.markers,
            panel=panel,
            left_out=left_out,
        )
        inputs = {"split": file_digest(parsed.split)} | store_digests(rows)
        if settings.learns_labels:
            others = bool(settings.pairs)
            labelled = labelled_rows(rows, tables, batch_size=settings.batch_size, keep_others=others)
            if processes.first and (message := without_class(rows, labelled)):
                say(f"train {parsed.name}: {message}")
            seen = [slide.store.attributes.slide for slide in rows.slides]
            inputs |= {f"classes/{name}": file_digest(tables[name]) for name in seen if name in tables}
            rows = labelled
        if settings.weights:
            path = Path(settings.weights) / WEIGHTS_NAME
            if not path.is_file():
                raise StatedError(
                    file=path, expected=f"the weights that run {parsed.name} starts from", found="no file"
                )
            inputs |= {"weights": file_digest(path)}
        used: dict[str, object] = {key: value for key, value in asdict(panel).items() if key in NAME_KEYS}
        if parsed.checks:
            used |= {"left_out": left_out}
        provenance = record("train", asdict(settings) | {"panel": used}, inputs, ("numpy", "timm", "torch"))
        train(parsed.name, rows, settings, outputs, provenance, processes)


def _left_out(checks: Path, stores: Path, split: Path) -> dict[str, list[str]]:
    """Return by slide of the split the channels that its check says tell nothing; a slide that was not checked none."""
    from pipeline.panel.panel_file import read_panel_check
    from pipeline.splitting.table import read_split_table
    from pipeline.store.patch_store import PatchStore

    slides = [str(name) for name in read_split_table(split)["slide"].unique()]
    kinds = {name: PatchStore.open(stores / f"{name}.zarr").attributes.dense_kind for name in slides}
    checked = [name for name in slides if kinds[name] == "fluorescence"]
    found = {name: list(read_panel_check(checks / f"{name}.json").left_out) for name in checked}
    return {name: channels for name, channels in found.items() if channels}
