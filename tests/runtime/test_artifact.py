"""Artifacts: what is written is read back, and what is damaged is refused with one clear line."""

from __future__ import annotations

import errno
import json
import os
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from runtime_support import entry, manifest

from joulec.runtime import (
    ArtifactError,
    Assigned,
    Budget,
    Manifest,
    TensorInfo,
    check_writable,
    read_artifact,
    write_artifact,
)
from joulec.runtime import artifact as module
from joulec.runtime.arrangements import arrange
from joulec.runtime.fields import ManifestError
from joulec.runtime.manifest import FORMAT_VERSION

WEIGHTS = {
    "w0": np.arange(6, dtype="float32").reshape(2, 3),
    "w1": np.asarray(5, dtype="int64"),
    "w2": np.arange(6, dtype="float16").reshape(2, 3).T,
    "w3": np.zeros((0, 4), dtype="bool"),
}
EXTERNALS = {"abc": b"an onnx definition"}


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "lib.so"
    path.write_bytes(b"\x7fELF" + bytes(5000))
    return path


@pytest.fixture
def described():
    assigned = (Assigned("conv1", "conv2d", "direct_conv(columns=14)", 1e-3, None),)
    first = entry(1, weights=("w0", "w1", "w2", "w3"), assignment=assigned, graph={"nodes": [1, "a", None]})
    second = entry(4, weights=("w0",), measured=Budget(2e-3, "measured", 3e-3, "rapl", 1.5), origin=Budget())
    return manifest(first, second)


@pytest.fixture
def written(tmp_path, library, described):
    return write_artifact(tmp_path / "m.joulec", described, library, WEIGHTS, EXTERNALS)


def test_round_trip(written, library, described):
    with read_artifact(written) as artifact:
        assert artifact.manifest == described
        assert artifact.library.read_bytes() == library.read_bytes()
        assert artifact.externals == EXTERNALS
        assert set(artifact.weights) == set(WEIGHTS)
        for digest, array in WEIGHTS.items():
            kept = artifact.weights[digest]
            assert (kept.dtype, kept.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(kept, array)
        folder = artifact.library.parent
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


@pytest.mark.parametrize("size", [module._MAPPED_BYTES - 4, module._MAPPED_BYTES, 3 * module._CHUNK + 4])
def test_large_weights_lie_in_memory_that_goes_back_to_the_system(tmp_path, library, size):
    weight = np.random.default_rng(0).standard_normal(size // 4).astype(np.float32)
    written = write_artifact(tmp_path / "m.joulec", manifest(entry(1, weights=("w",))), library, {"w": weight}, {})
    with read_artifact(written) as artifact:
        found = base = artifact.weights["w"]
        np.testing.assert_array_equal(found, weight)
        assert not found.flags.writeable
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert isinstance(base, memoryview) == (size >= module._MAPPED_BYTES)


def test_only_named_weights_are_stored_and_each_once(tmp_path, library):
    path = write_artifact(tmp_path / "m", manifest(entry(1), entry(4)), library, WEIGHTS, {})
    assert set(read_artifact(path).weights) == {"w0"}


def test_equal_contents_give_equal_files(tmp_path, library, described):
    a = write_artifact(tmp_path / "a", described, library, WEIGHTS, EXTERNALS)
    b = write_artifact(tmp_path / "b", described, library, WEIGHTS, EXTERNALS)
    assert a.read_bytes() == b.read_bytes()


def test_holds_no_pickle(written):
    with zipfile.ZipFile(written) as archive:
        names = set(archive.namelist())
    assert names == {"manifest.json", "library.so", "weights.safetensors", "external/abc.onnx"}


def test_a_failed_write_keeps_the_old_file(tmp_path, library, described, monkeypatch):
    path = write_artifact(tmp_path / "m", described, library, WEIGHTS, EXTERNALS)
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left.*free some space"):
        write_artifact(path, manifest(entry(1)), library, WEIGHTS, {})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lib.so", "m"]


def test_unwritable_outputs_are_refused_early(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist; create it"):
        check_writable(tmp_path / "no" / "m.joulec")
    with pytest.raises(ArtifactError, match="not a file"):
        check_writable(tmp_path)
    with pytest.raises(ArtifactError, match="not a file"):
        check_writable("/dev/null")
    with pytest.raises(ArtifactError, match="cannot write"):
        check_writable("/proc/m.joulec")
    assert check_writable(tmp_path / "m.joulec") == tmp_path / "m.joulec"
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_written_through(tmp_path, library, described):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "m")
    write_artifact(tmp_path / "link", described, library, WEIGHTS, EXTERNALS)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "m").is_file()


def test_a_missing_weight_is_refused(tmp_path, library, described):
    with pytest.raises(ArtifactError, match="weight w1"):
        write_artifact(tmp_path / "m", described, library, {"w0": WEIGHTS["w0"]}, {})


def test_a_definition_may_not_leave_its_folder(tmp_path, library, described):
    with pytest.raises(ArtifactError, match="not a usable name"):
        write_artifact(tmp_path / "m", described, library, WEIGHTS, {"../../evil": b""})


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_artifact(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="no joulec artifact"):
        read_artifact(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ArtifactError, match="is it a joulec artifact"):
        read_artifact(tmp_path / "zip")
    with pytest.raises(ArtifactError, match="cannot read"):
        read_artifact(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="truncated, damaged or no joulec artifact"):
        read_artifact(written)


def test_any_flipped_byte_is_noticed_or_harmless(written, described):
    content = written.read_bytes()
    rng = random.Random(0)
    refused = []
    for _ in range(150):
        place = rng.randrange(len(content))
        written.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
        try:
            with read_artifact(written) as artifact:  # a byte of a zip header that nobody reads
                assert artifact.manifest == described
                np.testing.assert_array_equal(artifact.weights["w0"], WEIGHTS["w0"])
        except ArtifactError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in message for message in refused)


def _rewrite(path, change):
    """Put another manifest into an artifact, or other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members["manifest.json"])
    change(described, members)
    members["manifest.json"] = json.dumps(described).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _set(*place_and_value):
    *place, last, value = place_and_value

    def change(described, members):
        for key in place:
            described = described[key]
        described[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("manifest", "format_version", FORMAT_VERSION + 1), "newer"),
        (_set("manifest", "parts", []), "parts must be an object"),
        (_set("manifest", "entries", 0, "outputs", []), "no outputs"),
        (_set("manifest", "threads", "two"), "threads must be a whole number"),
        (_set("manifest", "threads", 0), "threads must be at least 1"),
        (_set("manifest", "batched", 1), "batched must be true or false"),
        (_set("manifest", "entries", []), "no entries"),
        (_set("manifest", "entries", 0, "batch", 9), "ascend"),
        (_set("manifest", "entries", 0, "inputs", 0, "shape", [1, -8]), "negative"),
        (_set("manifest", "entries", 0, "inputs", 0, "dtype", "floaty"), "floaty"),
        (_set("manifest", "entries", 0, "inputs", 0, "name", "z"), "differ in name"),
        (_set("manifest", "entries", 1, "inputs", 0, "shape", [4, 9]), "row shape"),
        (_set("manifest", "entries", 1, "inputs", 0, "shape", [3, 8]), "lead with the batch"),
        (_set("manifest", "entries", 1, "measured", "time_source", "guessed"), "guessed"),
        (_set("manifest", "entries", 1, "weights", ["nowhere"]), "nowhere is missing"),
        (_set("manifest", "entries", 1, "variant", "fast"), "unknown variant 'fast'"),
        (_set("manifest", "variants", ["fast"]), "unknown variant None"),
        (_set("manifest", "variants", ["fast", "fast"]), "two variants have one name"),
        (_set("manifest", []), "must be an object"),
        (_set("sha256", None), "checksums"),
        (lambda described, members: members.update({"library.so": b"other"}), "library.so was altered"),
        (lambda described, members: members.pop("weights.safetensors"), "weights.safetensors"),
        (lambda described, members: described["sha256"].pop("library.so"), "holds no library.so"),
        (lambda described, members: described["manifest"].pop("target"), "lacks 'target'"),
    ],
)
def test_bad_manifests(written, change, message):
    _rewrite(written, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_artifact(written)
    assert "\n" not in str(caught.value)


def test_manifest_round_trips_through_json(described):
    assert Manifest.from_json(json.loads(json.dumps(described.to_json()))) == described


@pytest.mark.parametrize("dtype", ["object", "datetime64[s]", "S4", "nothing"])
def test_tensors_of_no_number_are_refused(dtype):
    with pytest.raises(ManifestError, match="dtype"):
        TensorInfo("x", (1,), dtype)


def test_unbatched_entries_may_have_any_shapes(described):
    inputs = (TensorInfo("x", (3, 8)),)
    other = replace(described.entries[0], inputs=inputs)
    with pytest.raises(ManifestError, match="lead with the batch"):
        replace(described, entries=(other,))
    assert replace(described, entries=(other,), batched=False).entries[0].inputs == inputs


def test_an_artifact_of_the_first_format_still_loads(written, described):
    def age(found, members):
        found["manifest"]["format_version"] = 1
        del found["manifest"]["variants"], found["manifest"]["parts"]
        for one in found["manifest"]["entries"]:
            del one["variant"]

    _rewrite(written, age)
    with read_artifact(written) as artifact:
        assert artifact.manifest == replace(described, format_version=1)
        assert artifact.manifest.variants == ()


def test_variants_of_a_batch_size_stand_in_for_each_other():
    three = [entry(1, variant=name, function=f"main_b1_{name}") for name in ("frugal", "fast", "balanced")]
    one = entry(4, variant="fast")
    two = [entry(8, variant=name, function=f"main_b8_{name}") for name in ("fast", "frugal")]
    found = manifest(*three, one, *two, variants=("fast", "balanced", "frugal"))
    assert found.batch_sizes == (1, 4, 8)
    chosen = {key: of.key for key, of in found.lookup().items()}
    assert chosen[1, None] == (1, "frugal")  # the first is the best under the objective
    assert [chosen[1, name] for name in found.variants] == [(1, name) for name in found.variants]
    assert {chosen[4, name] for name in (None, *found.variants)} == {(4, "fast")}
    assert chosen[8, "balanced"] == (8, "fast")
    assert Manifest.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_weights_in_another_order_are_stored_once(tmp_path):
    """As packed kernels are: blocks of 16 output channels, padded with zeros to a multiple of 16."""
    rng = np.random.default_rng(4)
    plain = rng.standard_normal((40, 24, 3, 3)).astype("float32")
    plain[3, 5] = -0.0
    padded = np.concatenate([plain, np.zeros((8, 24, 3, 3), "float32")])
    blocked = np.ascontiguousarray(padded.reshape(3, 16, 24, 3, 3).transpose(0, 2, 3, 4, 1))
    other = rng.standard_normal((40, 24, 3, 3)).astype("float32")
    shuffled = rng.permutation(plain.reshape(-1)).reshape(plain.shape)  # its order is worth nothing
    weights = {"plain": plain, "blocked": blocked, "other": other, "shuffled": shuffled, "small": np.ones(3, "float32")}
    assert set(arrange(weights)) == {"blocked"}
    described = manifest(entry(1, weights=tuple(weights)), batched=True)
    path = write_artifact(tmp_path / "m.joulec", described, b"library", weights, {})
    with read_artifact(path) as found:
        assert set(found.weights) == set(weights)
        for name, array in weights.items():
            assert found.weights[name].dtype == array.dtype
            assert found.weights[name].tobytes() == array.tobytes()
    assert path.stat().st_size < 1.03 * 3 * plain.nbytes

    def point_beyond(found, members):
        found["arranged"] = {"blocked": "small"}

    _rewrite(path, point_beyond)
    with pytest.raises(ArtifactError, match="points beyond its source; compile the model again"):
        read_artifact(path)


def test_weights_are_given_once(written):
    with read_artifact(written) as artifact:
        given = dict(artifact.drained())
        assert not artifact.weights
    assert given.keys() == WEIGHTS.keys()
    np.testing.assert_array_equal(given["w0"], WEIGHTS["w0"])
