"""How it runs: artifacts, the executor, the request queue, batch-size policies and the power cap."""

if __name__ != "joulec.runtime":
    raise ImportError("import this package as joulec.runtime; the folder at the top of the repository is its source")

from joulec.runtime.artifact import Artifact, ArtifactError, check_writable, read_artifact, write_artifact
from joulec.runtime.cap import CapError
from joulec.runtime.drive import RunResult, drive
from joulec.runtime.inputs import InputError
from joulec.runtime.loading import load
from joulec.runtime.manifest import Assigned, Budget, Entry, Manifest, TensorInfo
from joulec.runtime.model import Model
from joulec.runtime.parts import Part, Parts, ValueInfo
from joulec.runtime.policies import (
    Configuration,
    Decision,
    PaperPolicy,
    Policy,
    PolicyOptions,
    Prediction,
    Predictions,
    Space,
    Telemetry,
)
from joulec.runtime.queue import DeadlineExceeded, QueueClosed, QueueFull
from joulec.runtime.scripted import ScriptedMeter, read_script
from joulec.runtime.session import Session, SessionClosed

__all__ = [
    "Artifact",
    "ArtifactError",
    "Assigned",
    "Budget",
    "CapError",
    "Configuration",
    "DeadlineExceeded",
    "Decision",
    "Entry",
    "InputError",
    "Manifest",
    "Model",
    "PaperPolicy",
    "Part",
    "Parts",
    "Policy",
    "PolicyOptions",
    "Prediction",
    "Predictions",
    "QueueClosed",
    "QueueFull",
    "RunResult",
    "ScriptedMeter",
    "Session",
    "SessionClosed",
    "Space",
    "Telemetry",
    "TensorInfo",
    "ValueInfo",
    "check_writable",
    "drive",
    "load",
    "read_artifact",
    "read_script",
    "write_artifact",
]
