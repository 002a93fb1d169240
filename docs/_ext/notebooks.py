"""The notebook of a program: its docstring is the text, its code is cut where two lines are empty.

The program is the only source; the notebook of a short one is executed when the pages are built,
those of all by `tests/test_notebooks.py`.
"""

import re

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def cells(program):
    """Return the title, the text, and the cells of code of a program."""
    source = program.read_text(encoding="utf-8")
    docstring, code = re.match(r'"""(.+?)"""\n(.+)', source, re.S).groups()
    title, _, text = docstring.partition("\n")
    code = code.strip()
    path = f'"examples/{program.name}"'
    if "sys.argv" in code:  # those of the kernel are no arguments of the program
        code = f"import sys\n\nsys.argv = [{path}]\n\n{code}"
    if "__file__" in code:  # a notebook has none
        code = f"__file__ = {path}\n\n{code}"
    parts = re.split(r"\n{3,}|\n\n(?=# )", code)
    return title.rstrip("."), text.strip(), [new_code_cell(part) for part in parts]


def notebook(program):
    """Return the notebook of a program."""
    title, text, parts = cells(program)
    made = new_notebook(cells=[new_markdown_cell(f"# {title}\n\n{text}"), *parts])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return made
