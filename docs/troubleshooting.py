"""Prints troubleshooting.md: the messages of all stages in one page, from the tables of the stages' pages.

python docs/troubleshooting.py > docs/troubleshooting.md
"""

import re
import sys
from pathlib import Path

_STAGES = (
    "inspect",
    "panel",
    "register",
    "tile",
    "split",
    "train",
    "embed",
    "evaluate",
    "predict",
    "outcomes",
    "report",
)
_HEAD = """# Messages and what to do

A failed stage ends with one line: slide, file, what was expected, what was found. Look for what was expected below.
`mfl doctor --directory cohort` says most of these before a long run does, `mfl status cohort` those of a run.
A traceback is a bug: please report it.
"""


def page(stages: Path) -> str:
    """Return the page as Markdown.

    Args:
        stages: folder of the stages' pages.
    """
    parts = [_HEAD]
    for stage in _STAGES:
        text = (stages / f"{stage}.md").read_text(encoding="utf-8")
        table = re.search(r"^\| message \|.*?(?=\n\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
        if table:
            # Links on a stage's page are relative to its folder.
            moved = re.sub(r"\]\((?!\.\./|[a-z]+://|#)", "](stages/", table[0])
            moved = re.sub(r"\]\(#", f"](stages/{stage}.md#", moved).replace("](../../", "](%%").replace("](../", "](")
            parts.append(f"## [{stage}](stages/{stage}.md)\n\n{moved.replace('](%%', '](../').rstrip()}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page(Path(__file__).parent / "stages"))
