"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that run whole workflows")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Whole workflows first: begun last, the longest would leave the other processes of pytest-xdist idle.
    items.sort(key=lambda item: not _is_slow_throughout(item))
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="runs a whole workflow: ask for it with --slow"))


def _is_slow_throughout(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    return module is not None and any(mark.name == "slow" for mark in module.own_markers)


@pytest.fixture(scope="session")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run on two small pairs; to be copied, not to be changed."""
    from small_pair import run_all

    return run_all(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides; its tests are skipped where there is none."""
    folder = os.environ.get("MFL_REAL_DATA")
    if not folder:
        pytest.skip("MFL_REAL_DATA does not name the folder of real data")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"MFL_REAL_DATA names {path}, which is no folder")
    return path


@pytest.fixture(scope="session")
def peers_python() -> Path:
    """The interpreter of the environment that has other tools' own readers of our files, but not this package."""
    python = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-peers here: `make peers` builds it")
    return python
