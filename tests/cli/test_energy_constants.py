"""``--energy-constants``: a target's own constants of the estimate."""

from __future__ import annotations

import json

import pytest
from cli_support import FEW, product_model

from joulec.costdb.open import open_store

CLASSES = ("generic", "x86-64-avx512", "x86-64-avx2", "x86-64", "aarch64")


def _energy_j(report):
    return report["entries"]["1"]["origin"]["energy_j"]


@pytest.fixture
def product(joulec):
    return product_model(joulec.folder / "product.onnx")


def test_estimates_follow_the_file_and_say_so(joulec, product):
    options = ("optimize", product, *FEW, "--costs", "model", "--meter", "estimate")
    energies = []
    for static_w in (10, 1010):
        (joulec.folder / "mine.toml").write_text(
            f"[generic]\nstatic_w = {static_w}\n"
            + "".join(
                f"[{isa}]\nstatic_w = {static_w}\n" for isa in ("x86-64-avx512", "x86-64-avx2", "x86-64", "aarch64")
            )
        )
        done = joulec(*options, "--energy-constants", "mine.toml", "--json")
        assert done.returncode == 0, done.stderr
        assert "constants, of mine.toml" in done.stderr
        report = json.loads(done.stdout)
        energies.append((_energy_j(report), report["entries"]["1"]["origin"]["time_s"]))
    (first_j, first_s), (second_j, second_s) = energies
    assert second_j - first_j == pytest.approx(1000 * first_s, rel=1e-6)
    assert first_s == second_s


def test_what_was_measured_before_is_priced_anew(joulec, product):
    (joulec.folder / "hot.toml").write_text("".join(f"[{isa}]\nstatic_w = 5000\n" for isa in CLASSES))
    first = joulec.json("optimize", product, *FEW, "--meter", "estimate")
    again = joulec.json("optimize", product, *FEW, "--meter", "estimate", "--energy-constants", "hot.toml")
    assert again["profiling"]["measured"] == 0
    assert _energy_j(again) > 10 * _energy_j(first)
    with open_store(str(joulec.costs)) as store:
        assert all("energy_constants" in row.provenance for row in store.rows())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, (), "cannot read the energy constants in mine.toml"),
        ("static_w = 1", (), "`static_w` stands outside a table"),
        ("[generic]\nstatic_w = -1", (), "no finite number at or above zero"),
        ("[generic]\nwatts = 1", (), "unknown key `watts`"),
        ("[generic]\nstatic_w = 1", ("--meter", "rapl"), "--energy-constants is for the estimate"),
        ("[generic]\nstatic_w = 1", ("--meter", "replay:x.jsonl"), "--energy-constants is for the estimate"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(joulec, product, text, options, message):
    if text is not None:
        (joulec.folder / "mine.toml").write_text(text)
    done = joulec("optimize", product, *FEW, "--costs", "model", "--energy-constants", "mine.toml", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
