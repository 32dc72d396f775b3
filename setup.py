"""The packages of the wheel; all else about it stands in pyproject.toml.

The workflow and its environments lie at the top of a checkout, where Snakemake's catalog looks for them. A wheel has
them in a folder of their own, `more_from_less`, beside the package: `mfl run` finds them (pipeline/installation.py).
"""

from setuptools import find_namespace_packages, find_packages, setup

_WORKFLOW = {"more_from_less.workflow": "workflow", "more_from_less.envs": "envs"}
_FOLDERS = [f"more_from_less.workflow.{name}" for name in find_namespace_packages("workflow")]

setup(
    packages=[*find_packages(include=["pipeline*", "snakemake_logger_plugin_mfl"]), *_WORKFLOW, *_FOLDERS],
    package_dir=_WORKFLOW,
    package_data={
        "pipeline.report": ["*.html", "*.css", "*.js"],
        "more_from_less.workflow": ["*"],
        "more_from_less.envs": ["*"],
        **{name: ["*"] for name in _FOLDERS},
    },
)
