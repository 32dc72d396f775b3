"""The configuration: every key, its type, range, default and meaning, one module per section."""

from pipeline.settings.configuration import Settings, build, load, read_mapping, to_json
from pipeline.settings.containers import ContainerSettings
from pipeline.settings.embed import EmbedSettings
from pipeline.settings.evaluate import PROBE_KEYS, EvaluateSettings
from pipeline.settings.inspect import InspectSettings
from pipeline.settings.outcomes import OutcomesSettings
from pipeline.settings.panel import CHECK_KEYS, NAME_KEYS, PanelSettings
from pipeline.settings.predict import PredictSettings
from pipeline.settings.register import RegisterSettings
from pipeline.settings.report import ReportSettings
from pipeline.settings.split import SplitSettings
from pipeline.settings.staging import StagingSettings
from pipeline.settings.tile import TileSettings
from pipeline.settings.train import RunSettings

__all__ = [
    "CHECK_KEYS",
    "NAME_KEYS",
    "PROBE_KEYS",
    "ContainerSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "InspectSettings",
    "OutcomesSettings",
    "PanelSettings",
    "PredictSettings",
    "RegisterSettings",
    "ReportSettings",
    "RunSettings",
    "Settings",
    "SplitSettings",
    "StagingSettings",
    "TileSettings",
    "build",
    "load",
    "read_mapping",
    "to_json",
]
