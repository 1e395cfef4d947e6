"""Graphs as pictures: laid out by Graphviz, drawn by the page's template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulec.page.compare import Row, Side, shape
from joulec.passes.graph import Graph, Node
from joulec.quantities import show_energy, show_time

MOST_NODES = 3000
"""Graphs of more nodes or edges are not drawn: laying them out would take minutes."""

_EFFORT = {"nslimit": "1", "nslimit1": "1", "mclimit": "0.2"}
"""How long Graphviz looks for fewer crossings and shorter edges: graphs like DenseNet's take a third of the time."""

_PIXELS = 72.0
_CHARACTER, _PADDING, _HEIGHT = 6.3, 16.0, 36.0
"""Pixels: of a character of the page's 11-pixel type, beside the text, and of a box of two lines."""


@dataclass(frozen=True)
class Box:
    """A node of the picture, its centre and size in pixels."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    status: str
    title: str
    row: int | None


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph; ``paths`` are the edges in SVG's path language."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]


def draw(graph: Graph, rows: Sequence[Row], row_of: Mapping[Node, int], after: bool) -> Drawing | None:
    """Lay a graph out from top to bottom.

    Args:
        rows: the comparison that the graph is part of.
        row_of: the row of each node.
        after: whether this is the chosen graph (else the original).

    Returns:
        None where the graph is too large to be drawn.
    """
    if len(graph.nodes) > MOST_NODES or sum(len(node.inputs) for node in graph.nodes) > MOST_NODES:
        return None
    boxes: dict[str, Box] = {}
    producer: dict[object, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for index, value in enumerate(graph.inputs):
        boxes[f"i{index}"] = _box((value.name or "input", shape(value)), "tensor", "input", None)
        producer[value] = f"i{index}"
    for index, node in enumerate(graph.nodes):
        row = row_of[node]
        side = rows[row].after if after else rows[row].before
        assert side is not None
        boxes[f"n{index}"] = _box(_lines(side), rows[row].status, _title(side), row)
        for value in node.outputs:
            producer[value] = f"n{index}"
    for index, node in enumerate(graph.nodes):
        edges |= {(producer[value], f"n{index}"): None for value in node.inputs}
    for index, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        boxes[f"o{index}"] = _box((name, shape(value)), "tensor", "output", None)
        edges[producer[value], f"o{index}"] = None
    return _layout(boxes, list(edges))


def _lines(side: Side) -> tuple[str, ...]:
    energy = "" if side.energy_j is None else f" · {show_energy(side.energy_j)}"
    cost = f"{show_time(side.time_s)}{energy}" if side.time_source else "view"
    return side.operator, f"{side.shapes} · {cost}"


def _title(side: Side) -> str:
    sources = (
        f"time {side.time_source}, energy {side.energy_source or 'not known'}" if side.time_source else "no kernel"
    )
    return f"{side.name}: {side.algorithm} ({sources})"


def _box(lines: tuple[str, ...], status: str, title: str, row: int | None) -> Box:
    width = _CHARACTER * max(map(len, lines)) + _PADDING
    return Box(0.0, 0.0, width, _HEIGHT, lines, status, title, row)


def _layout(boxes: Mapping[str, Box], edges: Sequence[tuple[str, str]]) -> Drawing:
    """Graphviz is given sizes in place of texts, so that it needs no fonts; ``plain`` is its simplest output."""
    from pygraphviz import AGraph

    laid = AGraph(directed=True, strict=False, ranksep="0.3", nodesep="0.2", **_EFFORT)
    for name, box in boxes.items():
        size = {"width": f"{box.width / _PIXELS:.3f}", "height": f"{box.height / _PIXELS:.3f}"}
        laid.add_node(name, label="", shape="box", fixedsize="true", **size)
    for tail, head in edges:
        laid.add_edge(tail, head, arrowhead="none")
    width = height = 0.0
    placed, paths = [], []
    for line in laid.draw(format="plain", prog="dot").decode().splitlines():
        words = shlex.split(line)
        if words[0] == "graph":
            width, height = (_PIXELS * float(word) for word in words[2:4])
        elif words[0] == "node":
            box = boxes[words[1]]
            x, y = _PIXELS * float(words[2]), height - _PIXELS * float(words[3])
            placed.append(Box(x, y, box.width, box.height, box.lines, box.status, box.title, box.row))
        elif words[0] == "edge":
            count = int(words[3])
            numbers = [_PIXELS * float(word) for word in words[4 : 4 + 2 * count]]
            points = [f"{x:.1f},{height - y:.1f}" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
            paths.append(f"M{points[0]}C{' '.join(points[1:])}")
    return Drawing(width, height, tuple(placed), tuple(paths))
