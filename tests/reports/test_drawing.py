"""What notebooks show: networks as SVG, histories and summaries as tables."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import xplayers as xl

pytestmark = pytest.mark.host

SVG = "{http://www.w3.org/2000/svg}"


def drawn(layer):
    """Return the texts of a drawing, and its rectangles as (x, y, width, height)."""
    root = ET.fromstring(layer._repr_html_())
    size = float(root.get("width")), float(root.get("height"))
    boxes = [
        [float(r.get(k)) for k in ("x", "y", "width", "height")]
        for r in root.iter(f"{SVG}rect")
        if r.get("x")
    ]
    for x, y, width, height in boxes:
        assert 0 <= x <= x + width <= size[0]
        assert 0 <= y <= y + height <= size[1]
    return [t.text for t in root.iter(f"{SVG}text")], boxes


def test_a_network_draws_its_layers_and_their_parameters():
    texts, boxes = drawn(xl.mlp([784, 50, 10], rng=0))
    assert texts == [
        "Sequential", "39,760 parameters",
        "0: Affine(784 -> 50)", "39,250 parameters",
        "1: Relu",
        "2: Affine(50 -> 10)", "510 parameters",
    ]  # fmt: skip
    assert [y for _, y, _, _ in boxes] == sorted(y for _, y, _, _ in boxes)


def test_parts_lie_in_their_containers_and_parallel_ones_side_by_side():
    net = xl.Sequential(
        xl.Residual(xl.Affine.init(4, 4, rng=0)),
        xl.Parallel(left=xl.Relu(), right=xl.Sequential(xl.Tanh(), xl.Sigmoid())),
    )
    texts, boxes = drawn(net)
    names = [text for text in texts if "parameter" not in text]
    at = dict(zip(names, boxes, strict=True))
    inside = {
        "0: Affine(4 -> 4)": "0: Residual", "left: Relu": "1: Parallel",
        "1: Sigmoid": "right: Sequential", "0: Residual": "Sequential",
    }  # fmt: skip
    for inner, outer in inside.items():
        x, y, width, height = at[outer]
        assert x < at[inner][0] < at[inner][0] + at[inner][2] < x + width
        assert y < at[inner][1] < at[inner][1] + at[inner][3] < y + height
    assert at["left: Relu"][1] == at["right: Sequential"][1]
    assert at["left: Relu"][0] + at["left: Relu"][2] < at["right: Sequential"][0]


def test_names_are_escaped_and_long_ones_shortened():
    class Own(xl.Layer):
        def __str__(self):
            return "<script>" + "x" * 99

        def apply(self, arrays, x):
            return x, ()

    texts, _ = drawn(xl.Sequential(Own()))
    assert "<script>" not in xl.Sequential(Own())._repr_html_()
    assert texts[1].startswith("0: <script>xx")
    assert len(texts[1]) <= 48


def test_one_parameter_and_a_single_layer():
    texts, _ = drawn(xl.Affine.init(1, 1, rng=0, bias=False))
    assert texts == ["Affine(1 -> 1)", "1 parameter"]


def test_tables():
    history = xl.History([{"epoch": i, "loss": 1 / i} for i in range(1, 31)])
    root = ET.fromstring(history._repr_html_())
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows[0] == ["epoch", "loss"]
    assert rows[1] == ["1", "1"]
    assert rows[11] == ["…", "…"]
    assert rows[-1] == ["30", "0.03333"]
    assert len(rows) == 22
    root = ET.fromstring(xl.summary(xl.mlp([4, 3], rng=0), (4,))._repr_html_())
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows[1] == ["0", "Affine(4 -> 3)", "(n, 3)", "15", "60"]
    assert rows[-1] == [None, None, "total", "15", "60"]
