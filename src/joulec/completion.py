"""What the shell offers after options that take one of several names; modules are loaded only when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Completion = Callable[[str], list[str]]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def meters(incomplete: str) -> list[str]:
    """Meters by name; those that take a file end in a colon."""
    return _beginning(("auto", "estimate", "nvml", "rapl", "zeus", "record:", "replay:"), incomplete)


def session_meters(incomplete: str) -> list[str]:
    """Meters of a session, which may be scripted too."""
    return [*meters(incomplete), *_beginning(("scripted:",), incomplete)]


def policies(incomplete: str) -> list[str]:
    """Policies of sessions."""
    from joulec.runtime.policies import POLICIES

    return _beginning(POLICIES, incomplete)


def simulated_policies(incomplete: str) -> list[str]:
    """Policies that the simulator runs."""
    from joulec.runtime.simulator.suite import SIMULATED_POLICIES

    return _beginning(SIMULATED_POLICIES, incomplete)


def rules(incomplete: str) -> list[str]:
    """Substitutions by name."""
    from joulec.passes.rules import RULES

    return _beginning((rule.name for rule in RULES), incomplete)


def sources(incomplete: str) -> list[str]:
    """Where seconds and joules come from."""
    from joulec.transfer import SOURCES

    return _beginning(SOURCES, incomplete)
