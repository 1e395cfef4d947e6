"""``joulec compile --report``: one page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.util import find_spec

import onnx
import pytest
from browser import browser_path, opened
from cli_support import Command, Compiled, product_model, small_model

import joulec as package

UNMEASURED = ("--costs", "model", "--no-measure")
WICKED = '</title><script>throw new Error("ran")</script> & "quoted"'


class Outline(HTMLParser):
    """Headings, identities, addresses and the cells of the first table of figures."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.ids, self.addresses, self.text = [], [], [], []
        self._heading = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.append(found["id"])
        self.addresses += [found[name] for name in ("href", "src", "xlink:href", "data", "action") if found.get(name)]
        self._heading = [] if tag in ("h1", "h2", "h3") else self._heading

    def handle_data(self, data):
        self.text.append(data)
        if self._heading is not None:
            self._heading.append(data)

    def handle_endtag(self, tag):
        if tag in ("h1", "h2", "h3"):
            self.headings.append("".join(self._heading))
            self._heading = None


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The small model under wicked names, at two batch sizes in two variants, priced by the roofline."""
    home = tmp_path_factory.mktemp("report")
    model = onnx.load(small_model(home / "small.onnx"))
    model.graph.node[0].name = WICKED
    onnx.save(model, home / "small.onnx")
    command = Command(home, home / "unused.db")
    done = command(
        "compile", "small.onnx", "-o", "small.joulec", *UNMEASURED, "--batch-sizes", "1,4", "--variants", "frontier:2",
        "--report", "found.html", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrote found.html" in done.stderr
    return Compiled(home / "small.onnx", home / "found.html", done, command)


@pytest.fixture(scope="module")
def page(reported):
    return Outline(reported.artifact.read_text(encoding="utf-8"))


def test_the_page_has_all_parts(page):
    per_batch = [
        "Predicted against measured",
        "What changed",
        "Operators",
        "Graphs",
        "Frontier between time and energy",
    ]
    expected = ["small.onnx", "Overview", "Batch 1", *per_batch, "Batch 4", *per_batch, "Sources and versions"]
    assert page.headings == expected


def test_nothing_is_loaded_from_elsewhere(page, reported):
    assert {address for address in page.addresses if not address.startswith("#")} == {"data:,"}
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    styled = reported.artifact.read_text(encoding="utf-8")
    assert "@import" not in styled
    assert re.findall(r"url\((?!#)", styled) == []


def test_names_are_text(page, reported):
    assert "".join(page.text).count(WICKED) >= 2
    assert WICKED not in reported.artifact.read_text(encoding="utf-8")


def test_figures_are_those_of_the_report_and_sources_are_told(page, reported):
    told = " ".join("".join(page.text).split())
    for entry in reported.report["entries"].values():
        for one in entry["assignment"]:
            assert one["algorithm"] in told
        for step in entry["search"]["substitutions"]:
            assert step["rule"] in told
    assert "measured not measured" not in told
    assert "variant fast" in told
    assert "not measured" in told
    assert "No power sensor was read" in told
    assert "Times marked estimated come from a roofline" in told
    assert "The compiled model was not timed" in told
    assert f"joulec {package.__version__}" in told
    assert reported.report["verified"]["reference"] in told


def test_python_writes_the_page_too_and_draws_a_graph_that_did_not_change_once(tmp_path):
    product_model(tmp_path / "product.onnx")
    options = {"costs": "model", "measure": False, "report": tmp_path / "page.html"}
    with package.compile(tmp_path / "product.onnx", **options) as model:
        assert model.batch_sizes == (1,)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Batch 1" in Outline(text).headings
    assert text.count('class="picture"') == 1
    assert "No substitution paid" in text


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("found.pdf", "--report found.pdf: the page is HTML; name a file that ends in .html"),
        ("nowhere/found.html", "nowhere does not exist; create it"),
    ],
)
def test_a_place_that_will_not_do_is_refused_before_any_work(joulec, report, told):
    small_model(joulec.folder / "small.onnx")
    done = joulec("compile", "small.onnx", "-o", "small.joulec", *UNMEASURED, "--report", report)
    assert done.returncode == 2
    assert told in done.stderr
    assert "expanded" not in done.stderr
    assert not (joulec.folder / "small.joulec").exists()


def test_a_missing_library_is_named_with_its_extra(joulec):
    small_model(joulec.folder / "small.onnx")
    code = (
        "import sys; sys.modules['pygraphviz'] = None; from joulec.__main__ import main; "
        "sys.argv = ['joulec', 'compile', 'small.onnx', '-o', 'small.joulec', '--report', 'found.html']; main()"
    )
    done = joulec.python(["-c", code])
    assert done.returncode == 2
    assert "pip install 'joulec[report]'" in done.stderr


@pytest.mark.skipif(
    find_spec("playwright") is None, reason="playwright is not installed: pip install 'joulec[browser]'"
)
@pytest.mark.skipif(browser_path() is None, reason="no Chromium on the path, and JOULEC_BROWSER names none")
def test_a_browser_shows_it(reported, tmp_path):
    with opened(reported.artifact) as (shown, said, asked):
        assert shown.title() == "joulec: small.onnx"
        first = shown.locator("#b1")
        assert first.locator("svg.picture").count() >= 1
        assert all(picture["width"] > 50 for picture in boxes(shown.locator("svg")))
        rows = first.locator(".operators tbody tr:visible")
        every = rows.count()
        same = first.locator(".operators tbody tr.same").count()
        first.locator(".only").check()
        assert rows.count() == every - same
        first.locator(".only").uncheck()
        first.locator(".operators .sort").nth(4).click()  # the time of the chosen operators
        times = first.locator(".operators tbody tr").evaluate_all(
            "rows => rows.filter(row => row.cells.length === 8).map(row => Number(row.cells[6].dataset.v))"
        )
        assert times == sorted(times, reverse=True)
        assert len(times) >= 2
        width = first.locator(".picture").last.bounding_box()["width"]
        first.locator(".zoom").fill("50")
        assert first.locator(".picture").last.bounding_box()["width"] == pytest.approx(width / 2, rel=0.01)
        first.locator(".picture a").first.click()
        assert re.search(r"#b1-\d+$", shown.url)
        shown.screenshot(path=tmp_path / "page.png", full_page=True)
        assert said == []
        assert asked == [reported.artifact.resolve().as_uri()]
    assert (tmp_path / "page.png").stat().st_size > 20_000


def boxes(located):
    return [one.bounding_box() for one in located.all()]
