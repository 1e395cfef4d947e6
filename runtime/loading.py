"""From an artifact's file to a model."""

from __future__ import annotations

import os

from joulec.runtime.artifact import read_artifact
from joulec.runtime.model import Model


def load(path: str | os.PathLike[str], *, threads: int | None = None, variant: str | None = None) -> Model:
    """Load an artifact.

    Args:
        path: the file.
        threads: worker threads; as many as it was compiled for, at most one per CPU at hand, when None.
        variant: which variant calls run; at each batch size the one that is best under the objective, when None.

    Raises:
        VariantError: the artifact has no such variant.
        ArtifactError: the file is missing, damaged, altered or of a newer format.
        ImportError: TVM is not installed.
        RuntimeError: its library does not load on this machine.
    """
    with read_artifact(path) as artifact:
        parts = (artifact.manifest, artifact.library, artifact.drained(), artifact.externals)
        return Model(*parts, threads=threads, variant=variant)
