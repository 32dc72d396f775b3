"""The command line: `python -m pipeline VERB …`, one verb per stage and a few tools.

Exit codes: 0 done, 1 a stated error (one line), 2 wrong usage, 130 interrupted, 143 terminated. A traceback is a bug.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from pipeline import __version__
from pipeline.errors import StatedError

VERBS = {
    "init": "look through folders of slides and write the sheet and the configuration of a cohort",
    "run": "run the workflow on a cohort: Snakemake, with a line per slide and stage",
    "status": "say how far a cohort is: done, failed, running, left and about how long",
    "demo": "draw one synthetic slide pair with known truth",
    "inspect": "read size, resolution, levels and channels of a slide pair",
    "stage": "fetch a slide that lies elsewhere, as far as it is not here yet",
    "panel": "check every channel of a dense slide: dead, saturated, bleeding",
    "register": "find the transform between a sparse slide and its dense partner",
    "verdicts": "print what register found of each pair: its verdict and the first reason",
    "tile": "write the patches of one slide, paired where it has a dense partner",
    "split": "assign every patch to a fold, patients kept together",
    "train": "train a sparse encoder beside the dense branch",
    "embed": "turn the patches of one slide into features with a sparse-only encoder",
    "embed-at": "turn the patches of one slide at the coordinates of TRIDENT or CLAM into features",
    "embed-slides": "sum up the features of each slide in one vector per slide",
    "convert": "write the features of one slide in another tool's format",
    "dataset": "turn a published set of paired patches into a cohort",
    "export": "write an encoder in a form that others can use, or pass on",
    "merge-adapters": "make an encoder of low-rank adapters and the base that they belong to",
    "evaluate": "probe frozen features on held-out patches and compare the runs",
    "evaluate-probe": "keep the ridge probe of one run, with its held-out scores, for use on other slides",
    "predict": "draw the marker intensities that a probe predicts over one slide, from H&E features alone",
    "outcomes": "ask slide vectors and patches for what is known of patients",
    "report": "build the self-contained HTML report of a cohort",
    "doctor": "say what will fail before a long run does",
    "trace": "print the whole ancestry of a result, and what of it has changed",
    "settings": "print the reference of the configuration",
    "warp-points": "carry points from the sparse to the dense frame or back",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        # As an exception it lets open results be removed; the code is the shell's for a process ended by this signal.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        parser = _parser(argv[0] if argv else "")
        parsed = parser.parse_args(argv, argparse.Namespace(argv=argv))
        parsed.run(parsed)
    except StatedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter's own flush at exit must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (OSError, MemoryError) as error:
        print(f"error: {_from_system(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if arguments is None:
            # All results have their final names; an exception in the interpreter's own end would be a traceback.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return 0


def _from_system(error: OSError | MemoryError) -> StatedError:
    """Return the one-line error for a full disk, a missing permission or a vanished file, which are no bugs."""
    if isinstance(error, MemoryError):
        return StatedError(expected="enough memory", found=str(error) or "no more of it")
    file, found = error.filename, error.strerror or str(error)
    if "errno = 28" in found:
        # HDF5 buries the cause in a long message.
        found = os.strerror(errno.ENOSPC)
    return StatedError(file=file, expected="files that can be read and written", found=found)


def _parser(wanted: str) -> argparse.ArgumentParser:
    """Return the parser of all verbs, with the arguments of the wanted one only.

    The others' modules stay unimported.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"more-from-less {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if verb == wanted:
            module = import_module(f"pipeline.commands.{verb.replace('-', '_')}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser
