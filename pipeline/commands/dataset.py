"""`dataset`: write a published set of paired patches as a cohort with finished stores."""

from __future__ import annotations

import argparse
from pathlib import Path

NAMES = ("nct-crc", "bci", "segpath", "pannuke", "orion", "als-st")

# Options that some sets have and others not.
_OWNERS = {
    "masks": ("nct-crc",),
    "types": ("nct-crc",),
    "sparse": ("nct-crc",),
    "mpp": ("bci", "als-st"),
    "antibody": ("segpath",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--name", required=True, choices=NAMES, help="which set")
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="the set as it is published, unpacked"
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="of nct-crc: masks in the set's own folders and names"
    )
    parser.add_argument(
        "--types", type=Path, metavar="DIR", help="of nct-crc: HoVer-Net's json/ in the set's own folders and names"
    )
    parser.add_argument(
        "--sparse", choices=("he", "mask"), help="of nct-crc: what the sparse side shows, H&E (default) or the mask"
    )
    parser.add_argument(
        "--mpp",
        type=_length,
        metavar="UM",
        help="of bci: um per pixel, which its files do not tell; of als-st: of the patches, default the images' median",
    )
    parser.add_argument("--antibody", metavar="NAME", help="of segpath: whose cell type, where there are several")
    parser.add_argument(
        "--size-px",
        type=int,
        metavar="N",
        help="cut the images into patches of N px; default: whole, of als-st 256 px about each spot",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the cohort to write")


def run(parsed: argparse.Namespace) -> None:
    """Write stores, the tables of their files, and the sheet.

    Raises:
        StatedError: if the set is not laid out as it is published.
    """
    from pipeline.errors import StatedError
    from pipeline.tools.datasets.cohort import SetOptions, write_cohort

    if parsed.name == "bci" and parsed.mpp is None:
        raise StatedError(expected="--mpp, for the files of BCI do not tell um per pixel", found="none")
    if parsed.size_px is not None and parsed.size_px < 16:
        raise StatedError(expected="patches of 16 px or more", found=f"--size-px {parsed.size_px}")
    for option, owners in _OWNERS.items():
        if getattr(parsed, option) is not None and parsed.name not in owners:
            raise StatedError(
                expected=f"--{option} with --name {' or '.join(owners)} only", found=f"--name {parsed.name}"
            )
    options = SetOptions(**{name: getattr(parsed, name) for name in (*_OWNERS, "size_px")})
    write_cohort(parsed.name, parsed.source, parsed.out, options)


def _length(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 50:
        raise argparse.ArgumentTypeError(f"must be 0.05 to 50 um per pixel, not {text!r}")
    return value
