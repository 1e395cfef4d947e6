"""``joulec sweep``."""

from __future__ import annotations

import pytest

WATTS = "idle_w = 20\n[watts]\n1 = 40\n2 = 60\n4 = 95\n8 = 150\n"


def test_sizes_are_swept_and_drawn(batches):
    folder = batches.joulec.folder
    (folder / "watts.toml").write_text(WATTS)
    sizes = [1, 8]
    options = ("--batch-sizes", "1,8", "--trace", "8", "--duration", "300ms", "--meter", "scripted:watts.toml")
    report = batches.joulec.json("sweep", batches.artifact, *options, "--plot", "sweep.svg")
    assert [row["batch"] for row in report["sizes"]] == sizes
    assert [row["max_power_w"] for row in report["sizes"]] == [pytest.approx(40), pytest.approx(150)]
    assert all(
        row["energy_per_item_j"] == pytest.approx(row["mean_power_w"] / row["throughput"]) for row in report["sizes"]
    )
    assert (report["power_source"], report["idle_power_w"]) == ("simulated", pytest.approx(20))
    assert list(report["traces"]) == ["8"]
    assert {"t_s", "power_w", "utilization"} == set(report["traces"]["8"][0])
    assert (folder / "sweep.svg").read_text().lstrip().startswith("<?xml")


def test_the_table_names_the_source(batches):
    done = batches.joulec("sweep", batches.artifact, "--duration", "150ms", "--meter", "estimate")
    assert done.returncode == 0, done.stderr
    assert "estimated" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-sizes", "3"), "batch size 3 was not compiled"),
        (("--trace", "5"), "--trace: batch size 5"),
        (("--plot", "out.bmp"), "ends in .png"),
        (("--plot", "none/out.svg"), "there is no folder"),
        (("--duration", "0s"), "greater than zero"),
        (("--meter", "wattmeter"), "no meter"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(batches, options, message):
    done = batches.joulec("sweep", batches.artifact, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
