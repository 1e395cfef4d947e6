"""The tables of the first paper from its authors' own measurements, predicted beside what the paper prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

from joulec import paper_tables as paper
from joulec.options import OptionError
from joulec.paper_tables import Figures
from joulec.passes.graph import Graph
from joulec.passes.onnx.importer import import_onnx
from joulec.passes.replay.backend import ALGORITHMS
from joulec.passes.replay.bench import SCHEME, ReplayBench
from joulec.passes.replay.networks import read_network
from joulec.passes.replay.rows import Row
from joulec.passes.search.frontier import FrontierSearch
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import as_objective, parse_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions, SearchResult
from joulec.passes.search.totals import GraphFigures, Totals

SQUEEZENET, RESNET = "squeezenet", "resnet50"


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        label: what it is about.
        predicted: from the rows; None where they do not tell.
        paper: as the paper prints it; None where it prints nothing.
        detail: where the prediction comes from.
    """

    label: str
    predicted: Figures | None
    paper: Figures | None
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        number: in the paper.
        title: what it shows.
        lines: the lines.
        notes: where predictions and paper differ, and why.
    """

    number: int
    title: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Reproduction:
    """Searches on the replayed rows; each runs once.

    Attributes:
        bench: the rows.
        folder: where the networks' layers lie (``graph_*.json``).
        on_search: told of each search.
    """

    bench: ReplayBench
    folder: Path
    on_search: Callable[[str], None] = lambda what: None
    _graphs: dict[str, Graph] = field(default_factory=dict)
    _found: dict[tuple[str, str, SearchOptions], SearchResult] = field(default_factory=dict)

    @staticmethod
    def open(costs: str, folder: Path | None, on_search: Callable[[str], None] = lambda what: None) -> Reproduction:
        """Open a file of rows, named as ``mlsys20:FILE``.

        Args:
            folder: where the networks lie; None for the folder of the rows.

        Raises:
            OptionError: the costs are no file of rows.
            ReplayError: the rows cannot be read.
        """
        if not costs.startswith(SCHEME):
            raise OptionError(f"--costs {costs}: the tables rest on the authors' rows; write mlsys20:FILE")
        path = Path(costs.removeprefix(SCHEME))
        return Reproduction(ReplayBench.open(path), path.parent if folder is None else folder, on_search)

    def tables(self) -> list[Table]:
        """Tables 1 to 5.

        Raises:
            ReplayError: a network cannot be read.
        """
        return [self.table_1(), self.table_2(), self.table_3(), self.table_4(), self.table_5()]

    def table_1(self) -> Table:
        """Three convolutions under their algorithms: those rows that come nearest to the printed figures."""
        names, keys = _nearest_rows(self.bench.backend.rows)
        lines = []
        for (label, printed), key in zip(paper.TABLE_1.items(), keys, strict=True):
            for letter, name in zip("ABC", names, strict=True):
                row = self.bench.backend.rows[key].get(name)
                predicted = None if row is None else _row_figures(row)
                if predicted is not None or letter in printed:
                    lines.append(Line(f"{label} {letter}", predicted, printed.get(letter), f"{key} {ALGORITHMS[name]}"))
        shown = ", ".join(f"{letter} = {ALGORITHMS[name]}" for letter, name in zip("ABC", names, strict=True))
        return Table(1, "Costs of three convolutions under different algorithms", tuple(lines), (
            "The paper names neither the convolutions nor the algorithms. Shown are the rows nearest to its figures in "
            f"time and power, with one algorithm for each letter: {shown}.",
        ))  # fmt: skip

    def table_2(self) -> Table:
        """Graphs on the way to the least energy."""
        graphs = list(self._way(self._search(SQUEEZENET, "energy")))
        lines = []
        for index, printed in enumerate(paper.TABLE_2, 1):
            place, nearest = min(enumerate(graphs), key=lambda pair: _distance(pair[1], printed))
            lines.append(Line(f"graph {index}", nearest, printed, f"after {place} substitutions"))
        return Table(2, "Estimated cost of graphs from the search (SqueezeNet, energy)", tuple(lines), (
            f"Beside each printed estimate stands the nearest of the {len(graphs)} graphs on this search's way to its "
            "optimum. Substitutions may come in another order, so a printed graph need not lie on it.",
            "The paper's measured values need its GPU; its estimates differ from them by up to 10%.",
        ))  # fmt: skip

    def table_3(self) -> Table:
        """The networks under each objective."""
        lines = []
        for network, title in ((SQUEEZENET, "SqueezeNet"), (RESNET, "ResNet")):
            printed = paper.TABLE_3[title]
            mix = self._power_and_energy(network)
            lines.append(Line(f"{title}: origin", self._origin(network), printed["origin"]))
            lines.append(Line(f"{title}: MetaFlow best time", None, printed["MetaFlow best time"]))
            for label, objective in (
                ("best time", "time"), ("best energy", "energy"), ("best power", "power"), (paper.MIX, mix),
            ):  # fmt: skip
                found = _figures(self._search(network, objective).best.totals)
                lines.append(Line(f"{title}: {label}", found, printed[label], objective))
        return Table(3, "Objectives on the networks", tuple(lines), (
            "The paper prints measurements of whole graphs here, the predictions are sums of rows; on SqueezeNet the "
            "paper's own estimates of time (Table 2) lie as far below its measurements.",
            "Origin: every node's fastest algorithm is predicted; the paper's engine chose by its own measurements.",
            "MetaFlow chose its algorithms by itself, which the rows do not tell.",
            "Inception-v3 was not published as layers, so its columns are left out. The mix on ResNet is relative to "
            "the original graph, as its normalizers are not known.",
        ))  # fmt: skip

    def table_4(self) -> Table:
        """Between time and energy: the points of one frontier that are best under each weight."""
        frontier = FrontierSearch(self.bench.rules, self.bench.costs(None), SearchOptions(), self.bench.tidy)
        plans = frontier.run(self._graph(SQUEEZENET))
        origin = self._search(SQUEEZENET, "time").origin.totals
        lines = []
        for label, (weight, printed) in paper.TABLE_4.items():
            text = f"{1 - weight:.1f}*time_s/{paper.NORMAL_TIME_S} + {weight:.1f}*energy_j/{paper.NORMAL_ENERGY_J}"
            text = {0.0: "time", 1.0: "energy"}.get(weight, text)
            objective = parse_objective(text)
            values = [float(objective.value(plan.totals, origin)) for plan in plans]
            best = plans[values.index(min(values))]
            lines.append(Line(label, _figures(best.totals), printed, text))
        return Table(4, "Balance between time and energy (SqueezeNet)", tuple(lines), (
            f"All lines are points of one frontier of {len(plans)} (--frontier).",
            "Normalized by 0.843 ms and 77.40 mJ, which is what the inner search alone reaches in Table 5.",
            "The paper prints measurements, the predictions are sums of rows: the order by time and by energy agrees "
            "but for the paper's last mixed line, which it measured faster than the one before.",
        ))  # fmt: skip

    def table_5(self) -> Table:
        """What the inner and the outer search bring."""
        lines = []
        for label, (outer, inner) in {
            "origin": (False, False), "outer search only": (True, False),
            "inner search only": (False, True), "both": (True, True),
        }.items():  # fmt: skip
            options = SearchOptions(budget=300 if outer else 0, inner="exact" if inner else "none")
            found = self._search(SQUEEZENET, "energy", options).best.totals
            detail = " ".join(flag for flag, on in (("--budget 0", not outer), ("--inner none", not inner)) if on)
            lines.append(Line(label, _figures(found), paper.TABLE_5[label], detail))
        return Table(5, "Contribution of the inner search (SqueezeNet, energy)", tuple(lines), (
            "The paper prints measurements, the predictions are sums of the rows. Where the inner search is off, every "
            "node has its fastest algorithm here; the paper's engine apparently had slower ones (see origin). So the "
            "outer search alone comes out below the inner search alone, which in the paper is the other way round.",
            "Inner search only: the paper's own Table 2 measured 70.70 mJ for the original graph under its best "
            "algorithms (graph 1), near the prediction; its 77.40 mJ here does not agree with that.",
        ))  # fmt: skip

    def _graph(self, network: str) -> Graph:
        if network not in self._graphs:
            model = read_network(self.folder / f"graph_{network}.json")
            self._graphs[network] = self.bench.tidy(import_onnx(model).graph)
        return self._graphs[network]

    def _search(self, network: str, objective: str, options: SearchOptions | None = None) -> SearchResult:
        options = options or SearchOptions()
        key = (network, objective, options)
        if key not in self._found:
            self.on_search(f"searching {network} for {objective}")
            parsed = as_objective(objective)
            search = OuterSearch(self.bench.rules, self.bench.costs(parsed), parsed, options, self.bench.tidy)
            self._found[key] = search.run(self._graph(network))
        return self._found[key]

    def _origin(self, network: str) -> Figures:
        return _figures(self._search(network, "time", SearchOptions(budget=0, inner="none")).origin.totals)

    def _power_and_energy(self, network: str) -> str:
        if network != SQUEEZENET:
            return "0.5*power + 0.5*energy"
        return f"0.5*power_w/{paper.NORMAL_POWER_W} + 0.5*energy_j/{paper.NORMAL_ENERGY_J}"

    def _way(self, result: SearchResult) -> Iterator[Figures]:
        """Each graph on the way to the best, under its assignment of least energy."""
        objective = as_objective("energy")
        costs = self.bench.costs(objective)
        inner = InnerSearch(objective, result.origin.totals)
        for graph in (result.origin.graph, *(graph for _, graph in result.best.applied)):
            options = [costs.options(node.spec) for node in graph.nodes]
            yield _figures(inner.solve(options, GraphFigures.of(graph)).totals)


def _nearest_rows(rows: Mapping[str, Mapping[str, Row]]) -> tuple[tuple[str, ...], list[str]]:
    """The algorithms for the letters A, B, C, and the convolution of each line, that come nearest to Table 1."""
    convolutions = {key: of for key, of in rows.items() if key.startswith("conv,")}
    names = sorted({name for of in convolutions.values() for name in of})
    best: tuple[float, tuple[str, ...], list[str]] | None = None
    for chosen in permutations(names, 3):
        total, keys = 0.0, []
        for printed in paper.TABLE_1.values():
            fitting = [
                (sum(_distance(_row_figures(of[name]), printed[letter]) for letter, name in pairs), key)
                for pairs in [[pair for pair in zip("ABC", chosen, strict=True) if pair[0] in printed]]
                for key, of in convolutions.items()
                if all(name in of for _, name in pairs) and (len(pairs) == 3 or chosen[2] not in of)
            ]
            if not fitting:
                break
            distance, key = min(fitting)
            total += distance
            keys.append(key)
        if len(keys) == len(paper.TABLE_1) and (best is None or (total, chosen) < best[:2]):
            best = (total, chosen, keys)
    if best is None:
        raise OptionError("these rows hold no three convolutions that could be those of Table 1")
    return best[1], best[2]


def _row_figures(row: Row) -> Figures:
    return Figures(row.time_s * 1e3, row.power_w, row.energy_j * 1e3)


def _figures(totals: Totals) -> Figures:
    return Figures(float(totals.time_s) * 1e3, float(totals.power_w), float(totals.energy_j) * 1e3)


def _distance(found: Figures, printed: Figures) -> float:
    """How far apart in time and power, as squares of logarithms."""
    return math.log(found.time_ms / printed.time_ms) ** 2 + math.log(found.power_w / printed.power_w) ** 2


def tables_json(tables: Sequence[Table]) -> dict[str, Any]:
    """The tables as ``joulec reproduce --json`` prints them: in ms, W and mJ, as in the paper."""
    return {"tables": [asdict(table) for table in tables]}
