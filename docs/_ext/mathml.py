"""Formulas as MathML, which every browser draws by itself: no script and no network."""

from docutils import nodes
from latex2mathml.converter import convert


def formula(display):
    """Return the function that writes a formula: in a line (`inline`), or a `block` of its own."""

    def visit(self, node):
        text = convert(node.astext(), display=display)
        self.body.append(f'<div class="math">{text}</div>' if display == "block" else text)
        raise nodes.SkipNode

    return visit


def setup(app):
    """Offer the renderer; conf.py chooses it."""
    app.add_html_math_renderer("mathml", (formula("inline"), None), (formula("block"), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
