"""Computational graphs as the book draws them: values forward in blue, gradients back in red."""

from IPython.display import SVG

FORWARD, BACKWARD = "#1f5fbf", "#c0392b"
RADIUS = 28


def graph(nodes, edges, width=640, height=200):
    """Draw a graph.

    Parameters
    ----------
    nodes : dict of str to (x, y)
        Operations, drawn as circles with their name. A name with a leading ``_`` is a point
        without a circle, where an edge begins or ends; what follows a ``|`` is not drawn.
    edges : list of (from, to, forward, backward)
        What is written in blue above, and in red below the edge.
    width, height : int
        Size of the drawing.
    """
    arrows = "".join(edge(nodes, *each) for each in edges)
    circles = "".join(circle(name, *at) for name, at in nodes.items() if name[0] != "_")
    heads = "".join(
        f'<marker id="{color[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
        for color in (FORWARD, BACKWARD)
    )
    return SVG(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" aria-label="computational graph" font-family="sans-serif" '
        f'font-size="13" text-anchor="middle"><rect width="{width}" height="{height}" '
        f'fill="white"/><defs>{heads}</defs>{arrows}{circles}</svg>'
    )


def edge(nodes, start, end, forward, backward):
    """Draw the arrow of the value, and beside it that of the gradient."""
    (x1, y1), (x2, y2) = nodes[start], nodes[end]
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    a, b = (0 if name[0] == "_" else RADIUS for name in (start, end))
    x1, y1, x2, y2 = x1 + a * dx, y1 + a * dy, x2 - b * dx, y2 - b * dy
    drawn = arrow(x1 + 3 * dy, y1 - 3 * dx, x2 + 3 * dy, y2 - 3 * dx, FORWARD)
    if backward:
        drawn += arrow(x2 - 3 * dy, y2 + 3 * dx, x1 - 3 * dy, y1 + 3 * dx, BACKWARD)
    for text, color, side in ((forward, FORWARD, 1), (backward, BACKWARD, -1)):
        away = 12 if side == 1 else 15
        x = (x1 + x2) / 2 + side * dy * (len(text) * 4 + 14)  # beside a steep edge
        y = (y1 + y2) / 2 - side * dx * away + 4
        drawn += f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}">{text}</text>'
    return drawn


def arrow(x1, y1, x2, y2, color):
    """Draw a line with a head at its end."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="1.6" marker-end="url(#{color[1:]})"/>'
    )


def circle(name, x, y):
    """Draw an operation."""
    label = name.partition("|")[0]
    size = 20 if len(label) == 1 else 13 if len(label) < 6 else 11
    return (
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="#fdf6e3" stroke="#444"/>'
        f'<text x="{x}" y="{y + size * 0.35:.1f}" font-size="{size}" fill="#222">{label}</text>'
    )
