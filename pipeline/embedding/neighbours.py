"""Embed the slides after a job's own in the same process, while that is worth it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.embedding.ahead import ahead_of, is_made
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.stage import embed
from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.settings import EmbedSettings
from pipeline.store.patch_store import PatchStore

# Loading takes four to five seconds of a processor. After half a minute of slides it no longer counts, and a job that
# goes on for longer keeps Snakemake from starting others.
SECONDS = 30.0


@dataclass(frozen=True)
class Neighbour:
    """A slide that another job embeds.

    Attributes:
        store: its patches.
        out: the features that its job will make.
    """

    store: Path
    out: Path


def embed_neighbours(
    neighbours: Sequence[Neighbour],
    encoder: Encoder,
    settings: EmbedSettings,
    provenance_of: Callable[[Path], dict[str, Any]],
    patches_per_second: float,
    seconds: float = SECONDS,
) -> int:
    """Embed slides ahead of their jobs, those that lack features and fit into the time; returns how many.

    What is wrong with a slide is for its own job to say.

    Args:
        neighbours: the slides, first one first.
        encoder: what embeds them.
        settings: of the stage.
        provenance_of: the provenance of features by the store that they are of.
        patches_per_second: how fast slides were embedded so far.
        seconds: how long to go on.
    """
    begun, made = time.monotonic(), 0
    for neighbour in neighbours:
        left = seconds - (time.monotonic() - begun)
        if left <= 0:
            break
        if not (neighbour.store / "zarr.json").is_file() or _is_at_work(neighbour.out):
            continue
        try:
            provenance, ahead = provenance_of(neighbour.store), ahead_of(neighbour.out)
            if is_made(neighbour.out, provenance) or is_made(ahead, provenance):
                continue
            store = PatchStore.open(neighbour.store)
            if len(store) > left * patches_per_second:
                continue
            start = time.monotonic()
            # What it tells belongs into the log of the slide's own job.
            with redirect_stderr(io.StringIO()):
                embed(store, encoder, settings, ahead, provenance)
            patches_per_second = max(patches_per_second, len(store) / max(time.monotonic() - start, 1e-9))
        except (StatedError, OSError) as error:
            say(f"embed {neighbour.out.stem} ahead: left to its own job: {error}")
            continue
        made += 1
        if is_made(neighbour.out, provenance):
            # Its own job was faster, and will not come again for these.
            ahead.unlink(missing_ok=True)
    if made:
        say(f"{made} more slides embedded, for their own jobs to take over")
    return made


def _is_at_work(out: Path) -> bool:
    """Return whether some process is making these features, by the partial files beside them.

    One that begins right after is no harm: both make the same bytes.
    """
    beginnings = tuple(f".{name}.new." for name in (out.name, ahead_of(out).name))
    with suppress(FileNotFoundError):
        return any(name.startswith(beginnings) for name in os.listdir(out.parent))  # noqa: PTH208
    return False
