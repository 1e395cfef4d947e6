"""A missing or wrong TVM is told with the extra that helps."""

from __future__ import annotations

import pytest

from joulec import tvm_version


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [
        (None, "relay", r"needs TVM 0\.19, and no TVM is installed.*joulec\[relay\]"),
        ("relax", "relay", r"needs TVM 0\.19, but TVM 0\.27 is installed.*joulec\[relay\]"),
        ("relay", "relax", r"needs TVM 0\.27, but TVM 0\.19 is installed.*joulec\[relax\]"),
        (None, "relax", r"no TVM is installed.*joulec\[relax\]"),
    ],
)
def test_missing_or_wrong(monkeypatch, there, asked, message):
    monkeypatch.setattr(tvm_version, "installed_frontend", lambda: there)
    with pytest.raises(ImportError, match=message):
        tvm_version.require_tvm(asked)


def test_the_right_one_is_accepted(monkeypatch):
    monkeypatch.setattr(tvm_version, "installed_frontend", lambda: "relay")
    tvm_version.require_tvm("relay")


@pytest.mark.parametrize(("folders", "wanted"), [(["relax"], "relax"), (["relax", "relay"], "relay")])
def test_told_from_the_package_alone(monkeypatch, tmp_path, folders, wanted):
    for name in folders:
        (tmp_path / "tvm" / name).mkdir(parents=True)
    (tmp_path / "tvm" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("sys.path_importer_cache", {})
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "tvm", raising=False)
    importlib.invalidate_caches()
    assert tvm_version.installed_frontend() == wanted


def test_the_back_end_itself():
    """Shows in the main environment's report that the other tests of this folder run elsewhere."""
    if tvm_version.installed_frontend() != "relay":
        pytest.skip("TVM 0.19 is not installed here: make test-relay tests the Relay back end")
    import joulec.passes.relay as back_end

    assert back_end.EnergyAwareOptimize.__name__ == "EnergyAwareOptimize"
