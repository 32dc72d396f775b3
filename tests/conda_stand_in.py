"""A small stand-in for conda where none is at hand.

It answers what Snakemake asks of conda: `info`, `config`, `clean`, `--version`, `env create` and the script `activate`.
An environment it makes is a virtual environment that sees the packages of the interpreter that runs the tests, after
checking that each pip line of the file names a version installed there. It does NOT solve anything and says nothing on
whether the channels hold what a file asks for. What it does test is our side: the environment's interpreter runs the
rules, paths are right, and our code reaches them without being installed.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

_CONDA = """#!{python}
import importlib.metadata, json, pathlib, subprocess, sys, sysconfig, yaml

words = sys.argv[1:]
if words == ["--version"]:
    print("conda 25.1.0")
elif words == ["info", "--json"]:
    print(json.dumps({{"conda_prefix": {prefix!r}, "platform": "linux-64"}}))
elif words[:1] == ["clean"]:
    pass
elif words[:1] == ["config"]:
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif words[:2] == ["env", "create"]:
    given = dict(zip(words[2:], words[3:]))
    wanted = yaml.safe_load(pathlib.Path(given["--file"]).read_text())
    for line in next(item["pip"] for item in wanted["dependencies"] if isinstance(item, dict)):
        name, _, version = line.partition("==")
        if importlib.metadata.version(name) != version:
            sys.exit(f"{{line}}: found {{importlib.metadata.version(name)}}")
    prefix = pathlib.Path(given["--prefix"])
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    packages = next(prefix.glob("lib/python*/site-packages"))
    # A plain path: what lies there is seen, but its own .pth files, editable installs among them, are not followed.
    (packages / "third-party.pth").write_text({packages!r} + chr(10))
    (packages / "sitecustomize.py").write_text(
        "import pathlib, sys" + chr(10)
        + "with (pathlib.Path(sys.prefix) / 'used.txt').open('a') as log:" + chr(10)
        + "    log.write(' '.join(sys.orig_argv[1:]) + chr(10))" + chr(10)
    )
else:
    sys.exit(f"the stand-in for conda does not know: {{words}}")
"""

_ACTIVATE = """export CONDA_PREFIX="$1"
export PATH="$1/bin:$PATH"
"""


def write_conda(folder: Path) -> Path:
    """Writes the stand-in below `folder`; the folder to put at the head of PATH comes back."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    packages = sysconfig.get_path("purelib")
    (programs / "conda").write_text(_CONDA.format(python=sys.executable, prefix=str(folder), packages=packages))
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text(_ACTIVATE)
    return programs
