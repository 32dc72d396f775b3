"""The whole configuration: read, checked once at the door, and handed on.

The Snakefile and the command line read it through the same classes, so both refuse the same mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from pipeline.errors import StatedError
from pipeline.settings.closed import CLOSED
from pipeline.settings.containers import ContainerSettings
from pipeline.settings.embed import EmbedSettings
from pipeline.settings.evaluate import EvaluateSettings, baseline_of
from pipeline.settings.inspect import InspectSettings
from pipeline.settings.mistakes import mistakes, no_mapping, yaml_mistake
from pipeline.settings.outcomes import OutcomesSettings
from pipeline.settings.panel import PanelSettings
from pipeline.settings.predict import PredictSettings
from pipeline.settings.register import RegisterSettings
from pipeline.settings.report import ReportSettings
from pipeline.settings.split import SplitSettings
from pipeline.settings.staging import StagingSettings
from pipeline.settings.tile import TileSettings
from pipeline.settings.train import RunSettings
from pipeline.text_file import read_text

# A name that begins with - would be taken for an option.
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]


@dataclass(frozen=True, config=CLOSED)
class Settings:
    """The whole configuration, one section per stage."""

    slides: str = Field(default="config/slides.tsv", description="the sheet of slides")
    inspect: InspectSettings = field(default_factory=InspectSettings)
    staging: StagingSettings = field(default_factory=StagingSettings)
    register: RegisterSettings = field(default_factory=RegisterSettings)
    tile: TileSettings = field(default_factory=TileSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    panel: PanelSettings = field(default_factory=PanelSettings)
    runs: dict[RunName, RunSettings] = Field(default_factory=dict, description="the trainings, by name")
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    outcomes: OutcomesSettings = field(default_factory=OutcomesSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    containers: ContainerSettings = field(default_factory=ContainerSettings)

    @field_validator("runs")
    @classmethod
    def _one_run_per_seed(cls, runs: dict[str, RunSettings]) -> dict[str, RunSettings]:
        return one_run_per_seed(runs)

    @field_validator("evaluate")
    @classmethod
    def _compares_with_a_run(cls, evaluate: EvaluateSettings, known: ValidationInfo) -> EvaluateSettings:
        runs: dict[str, RunSettings] = known.data.get("runs", {})  # none where they were refused themselves
        if runs:
            baseline_of(evaluate.baseline, [name for name, run in runs.items() if not run.repeats])
        return evaluate


def one_run_per_seed(runs: Mapping[str, RunSettings]) -> dict[str, RunSettings]:
    """Return the runs with each one of several `seeds` as a separate run that `repeats` the first.

    Raises:
        ValueError: if a run repeats one that is not there, is itself a repetition, or differs in more than its seed.
    """
    single: dict[str, RunSettings] = {}
    for name, run in runs.items():
        for seed in run.seeds or (run.seed,):
            known = name if seed == (run.seeds or (run.seed,))[0] else f"{name}-seed{seed}"
            if known in single or (known != name and known in runs):
                raise ValueError(f"two runs would be named {known}")
            repeats = run.repeats if known == name else name
            single[known] = replace(run, seed=seed, seeds=(), repeats=repeats)
    for name, run in single.items():
        if run.repeats:
            first = single.get(run.repeats)
            if first is None or first.repeats:
                raise ValueError(f"run {name} repeats {run.repeats}, which is not a separate run")
            if replace(run, seed=first.seed, repeats="") != first or run.seed == first.seed:
                raise ValueError(
                    f"run {name} must differ from {run.repeats}, which it repeats, in its seed and only there"
                )
    return single


S = TypeVar("S")
# No section lies deeper; aliases let a YAML of a few lines stand for more than fits in memory.
_DEEPEST_KEY = 3


def build(kind: type[S], values: Mapping[str, Any], *, source: str) -> S:
    """Return the checked settings of type `kind`.

    Args:
        kind: one of the classes of this module.
        values: keys and values as read from YAML or JSON; missing keys take their defaults.
        source: what to call the values in an error, usually a path.

    Raises:
        StatedError: naming every unknown key and every value of wrong type or range at once.
    """
    try:
        return TypeAdapter(kind).validate_python(_words(values))
    except ValidationError as error:
        found = "; ".join(mistakes(kind, values, error.errors(include_url=False)))
        raise StatedError(file=source, expected="a valid configuration", found=found) from None


def load(path: Path) -> Settings:
    """Return the checked settings of a YAML configuration file.

    Raises:
        StatedError: if the file is absent, is no YAML mapping or breaks a rule of `Settings`.
    """
    return build(Settings, read_mapping(path), source=str(path))


class _EachKeyOnce(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, but of a key that is given twice it does not silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping as written, before `<<` brings in others, whose keys it may well repeat."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"twice the key {key.value}", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the top-level mapping of a YAML or JSON file, unchecked but for keys that are given twice.

    Raises:
        StatedError: if the file cannot be read, is no YAML mapping, or gives a key twice.
    """
    text = read_text(path, expected="a readable YAML file")
    try:
        values = _EachKeyOnce(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StatedError(file=path, expected="valid YAML", found=yaml_mistake(error)) from None
    if not isinstance(values, dict):
        raise StatedError(file=path, expected="a mapping of keys to values", found=no_mapping(values))
    return values


def to_json(settings: object, *, only: Collection[str] = (), without: Collection[str] = ()) -> str:
    """Return one line of JSON with sorted keys: what a rule hands to the command line.

    Args:
        settings: a section.
        only: the keys that decide the rule's result; empty for all.
        without: keys that do not.
    """
    values = asdict(settings)  # type: ignore[call-overload]
    kept = {key: value for key, value in values.items() if (key in only or not only) and key not in without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _words(values: Any, depth: int = 0) -> Any:
    """Return `pairing: true` is a boolean to YAML and a word to us; nothing else is touched."""
    if isinstance(values, Mapping) and depth < _DEEPEST_KEY:
        return {
            key: "true" if key == "pairing" and value is True else _words(value, depth + 1)
            for key, value in values.items()
        }
    return values
