"""Define the command-line arguments that several verbs share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import StatedError
from pipeline.settings import PanelSettings, build, read_mapping

S = TypeVar("S")


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers, for threads and the like.

    One below `least`, or none, is wrong usage (exit code 2).
    """

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
        return int(text)

    return read


def add_settings(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Add `--settings`, and a list of the section's keys with their defaults below the help text."""
    parser.add_argument(
        "--settings",
        default="{}",
        metavar="JSON|FILE",
        help="the stage's section of the configuration, as JSON or as a YAML file that holds just that section",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    described: list[tuple[str, Any]] = [(item.name, item.default) for item in fields(kind)]
    defaults = {name: key.default_factory() if key.default_factory else key.default for name, key in described}
    lines = [f"  {name}: {json.dumps(defaults[name])}\n      {key.description}" for name, key in described]
    parser.epilog = "settings and their defaults:\n" + "\n".join(lines)


def settings_of(parsed: argparse.Namespace, kind: type[S]) -> S:
    """Return the checked settings that `--settings` gave.

    Raises:
        StatedError: if they are not valid JSON or YAML, or break a rule of `kind`.
    """
    return _given(parsed.settings, kind, "--settings")


def add_panel(parser: argparse.ArgumentParser) -> None:
    """Add `--panel`: what slides call the same marker."""
    parser.add_argument(
        "--panel", default="{}", metavar="JSON|FILE", help="the section panel of the configuration: aliases of markers"
    )


def panel_settings_of(parsed: argparse.Namespace) -> PanelSettings:
    """Return the checked settings that `--panel` gave; StatedError as in `settings_of`."""
    return _given(parsed.panel, PanelSettings, "--panel")


def add_classes(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--classes`: tables of classes of slides, and what for."""
    parser.add_argument(
        "--classes",
        nargs="*",
        default=[],
        metavar="SLIDE=TABLE",
        help=f"tables of classes by position or row (the sheet's column classes), {use}",
    )


def class_tables_of(parsed: argparse.Namespace) -> dict[str, Path]:
    """Return the table of each slide that `--classes` names.

    Raises:
        StatedError: for a word that is no SLIDE=TABLE.
    """
    return {slide: Path(path) for slide, path in pairs_of(parsed.classes, "--classes", "SLIDE=TABLE").items()}


def pairs_of(values: Sequence[str], option: str, expected: str) -> dict[str, str]:
    """Return the mapping that words like NAME=VALUE give.

    Args:
        values: of an option.
        option: its name, for the error.
        expected: what such a word is, for the error.

    Raises:
        StatedError: for a word without a name or a value.
    """
    found = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise StatedError(file=option, expected=expected, found=text)
        found[name] = value
    return found


def _given(text: str, kind: type[S], argument: str) -> S:
    if not text.lstrip().startswith("{"):
        return build(kind, read_mapping(Path(text)), source=text)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StatedError(file=argument, expected="valid JSON", found=str(error)) from None
    return build(kind, values, source=argument)
