"""The package as users get it: built from what is committed, with real files in the place of the links."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

import joulec

ROOT = Path(__file__).parents[1]
FOLDERS = ("passes", "profiler", "costdb", "runtime")
OFFLINE = (
    "No matching distribution found for setuptools",
    "Temporary failure in name resolution",
    "Network is unreach",
)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, timeout=300, check=False, **options)


@dataclass(frozen=True)
class Package:
    """The distributions, and the committed files that must be in them: name below ``joulec/`` to contents."""

    wheel: Path
    sdist: Path
    committed: dict[str, bytes]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The sdist built from the commit, and the wheel built from that sdist."""
    pytest.importorskip("build")
    archive = run("git", "-C", str(ROOT), "archive", "--format=tar", "HEAD")
    if archive.returncode:
        pytest.skip(f"the package is built from a commit: {archive.stderr.decode().strip()}")
    place = tmp_path_factory.mktemp("package")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(place / "tree", filter="data")
    built = run(sys.executable, "-m", "build", "--outdir", str(place), str(place / "tree"), encoding="utf-8")
    if built.returncode and any(reason in built.stdout + built.stderr for reason in OFFLINE):
        pytest.skip("building needs setuptools from the package index, which cannot be reached")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (wheel,) = place.glob("*.whl")
    (sdist,) = place.glob("*.tar.gz")
    return Package(wheel, sdist, committed_files(place / "tree"))


def committed_files(tree):
    found = {}
    for top, prefix in [(tree / name, f"{name}/") for name in FOLDERS] + [(tree / "src" / "joulec", "")]:
        for folder, folders, files in os.walk(top):  # does not follow links
            folders[:] = [name for name in folders if name != "__pycache__"]
            for file in files:
                path = Path(folder, file)
                found[f"{prefix}{path.relative_to(top).as_posix()}"] = path.read_bytes()
    return found


def test_the_wheel_holds_every_committed_file_itself(package):
    assert len(package.committed) > 50
    for data in ("py.typed", "profiler/energy_constants.toml", "costdb/migrations/env.py"):
        assert data in package.committed
    with zipfile.ZipFile(package.wheel) as wheel:
        names = set(wheel.namelist())
        missing = [name for name in package.committed if f"joulec/{name}" not in names]
        assert missing == []
        for name, contents in package.committed.items():
            assert wheel.read(f"joulec/{name}") == contents, name
        assert not [info.filename for info in wheel.infolist() if stat.S_ISLNK(info.external_attr >> 16)]
        strangers = {name.split("/")[0] for name in names} - {"joulec", f"joulec-{joulec.__version__}.dist-info"}
        assert strangers == set()


def test_the_sdist_stands_alone(package):
    with tarfile.open(package.sdist) as sdist:
        members = sdist.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    names = {member.name.partition("/")[2] for member in members}
    assert [name for name in package.committed if f"src/joulec/{name}" not in names] == []


def test_the_wheel_works_where_nothing_else_of_joulec_is(package, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    installed = run(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(package.wheel),
        encoding="utf-8",
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["JOULEC_COSTS"] = str(tmp_path / "costs.db")
    code = "import joulec, joulec.passes.search.outer as outer; print(joulec.__file__); print(outer.__file__)"
    imported = run(str(python), "-c", code, cwd=tmp_path, env=environment, encoding="utf-8")
    assert imported.returncode == 0, imported.stderr
    assert all(Path(line).is_relative_to(site) for line in imported.stdout.splitlines())
    command = str(tmp_path / "venv" / "bin" / "joulec")
    version = run(command, "--version", cwd=tmp_path, env=environment, encoding="utf-8")
    assert version.stdout == f"joulec {joulec.__version__}\n", version.stderr
    info = run(command, "db", "info", "--json", cwd=tmp_path, env=environment, encoding="utf-8")  # runs the migrations
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["rows"] == 0
