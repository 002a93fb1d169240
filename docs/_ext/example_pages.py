"""A page and a notebook for each program in `examples/`: the program is the only source.

Programs that take seconds run when the pages are built. What the others print, and how long each
took, is in `examples/recorded.json`: `python docs/_ext/example_pages.py` runs them all anew.
"""

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jupytext
from nbformat.v4 import new_markdown_cell
from notebooks import cells, notebook
from sphinx.util import logging

DOCS = Path(__file__).parents[1]
PROGRAMS = sorted((DOCS.parent / "examples").glob("*.py"))
RECORDED = DOCS / "examples" / "recorded.json"
PAGES = DOCS / "examples" / "programs"
LONG = 4  # seconds: what takes longer is not run again with every build


def write_page(program, record):
    """Write the page of a program, as a MyST notebook, and its notebook for Jupyter."""
    title, text, parts = cells(program)
    took = f"{record['seconds']:.0f} seconds" if record["seconds"] >= 2 else "a second"
    about = (
        f"# {title}\n\n{text}\n\n"
        f"The program is `examples/{program.name}`; {{download}}`as a notebook "
        f"<{program.stem}.ipynb>`. It took {took} on {record['machine']} ({record['date']})."
    )
    page = PAGES / program.stem
    made = notebook(program)
    jupytext.write(made, page.with_suffix(".ipynb"))
    if record["seconds"] > LONG:  # text alone
        code = [f"```python\n{part.source}\n```" for part in parts]
        output = f"## What it prints\n\n```text\n{record['output']}```\n"
        page.with_suffix(".md").write_text("\n\n".join([about, *code, output]), encoding="utf-8")
    else:
        made.cells[0] = new_markdown_cell(about)
        jupytext.write(made, page.with_suffix(".md"), fmt="md:myst")


def write_pages(app):
    """Write all pages; to have none of a program is a warning."""
    PAGES.mkdir(exist_ok=True)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    for program in PROGRAMS:
        if program.stem in recorded:
            write_page(program, recorded[program.stem])
        else:
            logging.getLogger(__name__).warning("%s is not in recorded.json.", program.name)


def record():
    """Run programs, those named or all, and write what they print and the seconds they take."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    for program in PROGRAMS:
        if sys.argv[1:] and program.stem not in sys.argv[1:]:
            continue
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
        run = subprocess.run(
            [sys.executable, program], env=environment, capture_output=True, text=True, check=True
        )
        recorded[program.stem] = {
            "seconds": round(time.perf_counter() - start, 1),
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores that had other work too",
            "output": run.stdout,
        }
        text = json.dumps(dict(sorted(recorded.items())), indent=1, ensure_ascii=False)
        RECORDED.write_text(text + "\n", encoding="utf-8")


def setup(app):
    """Write the pages before they are read."""
    app.connect("builder-inited", write_pages, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    record()
