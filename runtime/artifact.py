"""Artifacts: one zip that holds a compiled model. Writing is atomic, reading checks everything and unpickles nothing.

Members: ``manifest.json`` (the `Manifest` and the SHA-256 of every other member), ``library.so``,
``weights.safetensors`` (each weight once, under its content digest), ``arrangements.safetensors`` (those that are
others in a different order) and ``external/<digest>.onnx`` (definitions of
operators that run outside the library).
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from joulec.runtime.arrangements import Arrangement, arrange
from joulec.runtime.fields import ManifestError
from joulec.runtime.manifest import Manifest

MANIFEST = "manifest.json"
LIBRARY = "library.so"
WEIGHTS = "weights.safetensors"
ARRANGEMENTS = "arrangements.safetensors"
_EXTERNAL = re.compile(r"external/([0-9A-Za-z_-]{1,128})\.onnx")
_CHUNK = 1 << 20
_MAPPED_BYTES = 1 << 16
_DTYPES = {
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "BOOL": np.dtype(bool),
}
"""safetensors' names of the dtypes that weights have."""

_Array = npt.NDArray[Any]


class ArtifactError(RuntimeError):
    """An artifact that cannot be written or read. The message is one line and says what to do where that is known."""


@dataclass(frozen=True)
class Artifact:
    """A read artifact. The library lies in a private directory that goes at `close` or with the process.

    Attributes:
        path: where it was read from.
        manifest: what it says of itself.
        library: the extracted library.
        weights: contents by digest.
        externals: ONNX definitions by digest.
    """

    path: Path
    manifest: Manifest
    library: Path
    weights: dict[str, _Array]
    externals: Mapping[str, bytes]
    directory: tempfile.TemporaryDirectory[str] = field(repr=False)

    def drained(self) -> Iterator[tuple[str, _Array]]:
        """The weights one by one, each forgotten here once it is given: who copies them never holds all twice."""
        while self.weights:
            yield self.weights.popitem()

    def close(self) -> None:
        """Remove the extracted library. A loaded library stays usable."""
        self.directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure that an artifact can be written, before work goes into it.

    Returns:
        The path with links resolved.

    Raises:
        ArtifactError: its directory is missing or may not be written, or something else than a file is in its place.
    """
    target = Path(os.path.realpath(path))
    with _saying(f"cannot write {target}"):
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise ArtifactError(f"cannot write {target}: it exists and is not a file; name another output")
        if not target.parent.is_dir():
            raise ArtifactError(f"cannot write {target}: the directory {target.parent} does not exist; create it")
        with _replacing(target, commit=False):
            pass
    return target


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write any file atomically: the path holds either what it held before or the whole content.

    Returns:
        The path with links resolved.

    Raises:
        ArtifactError: the place cannot be written, or the disk is full.
    """
    target = check_writable(path)
    with _saying(f"cannot write {target}"), _replacing(target) as file:
        file.write(content)
    return target


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Manifest,
    library: Path | bytes,
    weights: Mapping[str, _Array],
    externals: Mapping[str, bytes],
) -> Path:
    """Write an artifact atomically: the path holds either what it held before or the whole new artifact.

    Args:
        path: where to; its directory must exist.
        manifest: what the artifact says of itself.
        library: the compiled shared library, a file or its contents.
        weights: contents by digest; all that the entries name must be there.
        externals: ONNX definitions by the digest that the library calls them by.

    Returns:
        The path with links resolved.

    Raises:
        ArtifactError: the place cannot be written, the disk is full, or a weight is missing or cannot be stored.
    """
    target = check_writable(path)
    missing = [digest for digest in manifest.weights() if digest not in weights]
    if missing:
        raise ArtifactError(f"cannot write {target}: weight {missing[0]} is named by an entry but was not supplied")
    names = {f"external/{digest}.onnx": content for digest, content in externals.items()}
    for name in names:
        if not _EXTERNAL.fullmatch(name):
            raise ArtifactError(f"cannot write {target}: {name!r} is not a usable name for a definition")
    named = {digest: np.asarray(weights[digest]) for digest in manifest.weights()}
    orders = arrange(named)
    kept = {digest: array for digest, array in named.items() if digest not in orders}
    with _saying(f"cannot write {target}"), _replacing(target) as file, zipfile.ZipFile(file, "w") as archive:
        content = library.read_bytes() if isinstance(library, Path) else library
        sums = {LIBRARY: _add(archive, LIBRARY, content)}
        sums[WEIGHTS] = _add_weights(archive, kept, target.parent)
        if orders:
            steps = {digest: order.steps for digest, order in orders.items()}
            sums[ARRANGEMENTS] = _add(archive, ARRANGEMENTS, safetensors.numpy.save(steps))
        for name, content in names.items():
            sums[name] = _add(archive, name, content)
        sources = {digest: order.source for digest, order in orders.items()}
        described = {"manifest": manifest.to_json(), "sha256": sums, "arranged": sources}
        archive.writestr(_info(MANIFEST, compress=True), json.dumps(described, indent=1, allow_nan=False))
    return target


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact and check every member against its checksum.

    Raises:
        ArtifactError: the file is missing, unreadable, truncated, no zip, altered, of a newer format, or incomplete.
    """
    source = Path(path)
    directory = tempfile.TemporaryDirectory(prefix="joulec-", ignore_cleanup_errors=True)
    try:
        with _saying(f"cannot read {source}"), zipfile.ZipFile(source) as archive:
            manifest, sums, sources = _read_manifest(archive, source)
            library = Path(directory.name, LIBRARY)
            library.write_bytes(_member(archive, source, LIBRARY, sums))
            weights = _read_weights(archive, source, sums)
            if sources:
                steps = safetensors.numpy.load(_member(archive, source, ARRANGEMENTS, sums))
                weights |= {
                    digest: Arrangement(origin, steps[digest]).apply(weights[origin])
                    for digest, origin in sources.items()
                }
            externals = {
                match[1]: _member(archive, source, name, sums) for name in sums if (match := _EXTERNAL.fullmatch(name))
            }
            for digest in manifest.weights():
                if digest not in weights:
                    raise ArtifactError(f"cannot read {source}: weight {digest} is missing; compile the model again")
    except BaseException:
        directory.cleanup()
        raise
    return Artifact(source, manifest, library, weights, externals, directory)


def _read_manifest(archive: zipfile.ZipFile, source: Path) -> tuple[Manifest, dict[str, str], dict[str, str]]:
    """The manifest, checksums by member, and the weights that are others in a different order."""
    described = json.loads(archive.read(MANIFEST))
    if not isinstance(described, dict) or not isinstance(described.get("sha256"), dict):
        raise ManifestError("manifest.json does not hold a manifest and checksums")
    sources = described.get("arranged", {})
    if not isinstance(sources, dict):
        raise ManifestError("manifest.json does not say which weights are arranged")
    return Manifest.from_json(described.get("manifest")), described["sha256"], sources


def _member(archive: zipfile.ZipFile, source: Path, name: str, sums: Mapping[str, str]) -> bytes:
    if name not in sums:
        raise ArtifactError(f"cannot read {source}: it holds no {name}; compile the model again")
    content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != sums[name]:
        raise ArtifactError(f"cannot read {source}: {name} was altered (its checksum differs); compile the model again")
    return content


def _read_weights(archive: zipfile.ZipFile, source: Path, sums: Mapping[str, str]) -> dict[str, _Array]:
    """The weights tensor by tensor, so that the member is never held beside what is read from it.

    The layout is safetensors': the length of a JSON header in eight bytes, the header, the tensors' bytes.
    """
    if WEIGHTS not in sums:
        raise ArtifactError(f"cannot read {source}: it holds no {WEIGHTS}; compile the model again")
    size, digest = archive.getinfo(WEIGHTS).file_size, hashlib.sha256()
    with archive.open(WEIGHTS) as member:

        def take(count: int) -> _Array:
            content = _room(count)
            filled = 0
            while filled < count and (chunk := member.read(min(count - filled, _CHUNK))):
                content[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
                filled += len(chunk)
            content.flags.writeable = False
            digest.update(content[:filled].data)
            return content[:filled]

        (length,) = struct.unpack("<Q", take(8).tobytes())
        try:
            described = json.loads(take(min(length, size)).tobytes())
            described.pop("__metadata__", None)
            weights, at = {}, 0
            for name, tensor in sorted(described.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = tensor["data_offsets"]
                if begin != at or end < begin or end > size:
                    raise ManifestError(f"{WEIGHTS} does not say where {name} lies")
                at = end
                weights[name] = take(end - begin).view(_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"cannot read {source}: it is truncated, damaged or no joulec artifact ({WEIGHTS}: {error})"
            ) from error
        if member.read(1) or digest.hexdigest() != sums[WEIGHTS]:
            raise ArtifactError(
                f"cannot read {source}: {WEIGHTS} was altered (its checksum differs); compile the model again"
            )
    return weights


def _room(size: int) -> npt.NDArray[np.uint8]:
    """Memory that goes back to the system with the array: what the heap had to grow for, it often keeps."""
    return np.empty(size, np.uint8) if size < _MAPPED_BYTES else np.frombuffer(mmap.mmap(-1, size), np.uint8)


def _info(name: str, *, compress: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # dated 1980: equal contents give equal archives
    info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    return info


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    archive.writestr(_info(name, compress=True), content)
    return hashlib.sha256(content).hexdigest()


def _add_weights(archive: zipfile.ZipFile, weights: Mapping[str, _Array], near: Path) -> str:
    # safetensors writes an array's buffer as it lies, so each must be contiguous; `copy` keeps zero dimensions
    laid = {
        digest: array if array.flags.c_contiguous else array.copy(order="C")
        for digest, array in ((digest, np.asarray(array)) for digest, array in weights.items())
    }
    scratch = tempfile.mkdtemp(prefix=".joulec-", dir=near)
    try:
        file = Path(scratch, WEIGHTS)
        safetensors.numpy.save_file(laid, file)
        digest = hashlib.sha256()
        info = _info(WEIGHTS, compress=False)
        with file.open("rb") as saved, archive.open(info, "w", force_zip64=True) as member:
            while chunk := saved.read(_CHUNK):
                digest.update(chunk)
                member.write(chunk)
        return digest.hexdigest()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _replacing(target: Path, *, commit: bool = True) -> Iterator[IO[bytes]]:
    """A new file beside the target that takes its place when the block ends well and is removed otherwise."""
    fresh = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            if commit:
                file.flush()
                os.fsync(file.fileno())
        if commit:
            os.replace(fresh, target)
            _sync_directory(target.parent)
    finally:
        fresh.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems cannot sync a directory; the rename itself has been done
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Translate what goes wrong inside into one line."""
    try:
        yield
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise ArtifactError(f"{what}: {error.filename or 'the file'} does not exist") from error
    except OSError as error:
        hint = {errno.ENOSPC: "; free some space or name another place", errno.EACCES: "; check its permissions"}
        raise ArtifactError(f"{what}: {error.strerror or error}{hint.get(error.errno or 0, '')}") from error
    except KeyError as error:
        raise ArtifactError(f"{what}: {str(error).strip(chr(34))}; is it a joulec artifact?") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError) as error:
        raise ArtifactError(f"{what}: it is truncated, damaged or no joulec artifact ({error})") from error
    except (ManifestError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{what}: {error}".replace("\n", " ")) from error
