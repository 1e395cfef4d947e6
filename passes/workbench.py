"""What a search on this machine needs: target, device, meter, cost database and measuring harness."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from joulec.costdb.continuing import going_on
from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.open import open_store
from joulec.costdb.store import CostStore
from joulec.passes.backend import BackEnd
from joulec.passes.bench import ProfilingTotals
from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Graph
from joulec.passes.kernels.cuda.target import CudaTarget, cuda_target, is_cuda
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.target import TargetError, cpu_target
from joulec.passes.rules import RULES, Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.costing import EnergyModel, MeasuredCosts, RooflineCosts
from joulec.passes.search.objective import Objective
from joulec.profiler.candidate import Candidate
from joulec.profiler.cpu import cpu_facts, default_threads
from joulec.profiler.device import DeviceIdentity, local_cpu
from joulec.profiler.harness import Harness, Limits
from joulec.profiler.memory import worker_memory_bytes
from joulec.profiler.meter import MeterError
from joulec.profiler.meters.choose import ChosenMeter, choose_meter
from joulec.profiler.meters.estimate import EstimateMeter, estimate_energy_j, load_constants
from joulec.profiler.nvcc import nvcc_version
from joulec.profiler.profiling import profile
from joulec.profiler.protocol import PROTOCOLS
from joulec.profiler.retry import RetryingStore
from joulec.profiler.rivalry import Rivalry
from joulec.profiler.roofline import Roofline, cpu_roofline
from joulec.profiler.sharing import turn

ROOFLINE_COSTS = "model"
_MOST_BUILDERS = 4
"""Workers that build candidates at the same time, at most: each holds the compiler and operands of its own."""


@dataclass(frozen=True)
class Setup:
    """What a user may choose of the workbench; see `joulec.options.CompileOptions`."""

    target: str = "llvm"
    threads: int | None = None
    costs: str | None = None
    meter: str = "auto"
    energy_constants: Path | None = None
    protocol: str = "adaptive"
    exclude_algorithms: tuple[str, ...] = ()
    retry_failed: bool = False
    max_error: float | None = None
    tuning_records: str | None = None


class KernelBackEnd(BackEnd, Protocol):
    """A back end that compiles: what it names stands in artifacts."""

    @property
    def compiler(self) -> str:
        """Compiler and version."""


@dataclass
class Workbench:
    """Opened resources; a context manager. Each compiling back end has its own kind.

    Attributes:
        setup: what was asked for.
        target: what kernels follow, a `CpuTarget` or a `CudaTarget`.
        device: the device whose costs decide.
        meter: where joules come from, and why.
        backend: the back end for them.
        store: the cost database; None for roofline costs.
        on_candidate: told of each candidate before it is measured (progress).
        on_result: told of each outcome.
        on_batch: told how many candidates are about to be measured, before the first of them.
        deadline_s: moment on the monotonic clock after which nothing more is measured.
        profiling: totals so far.
    """

    setup: Setup
    target: Any
    device: DeviceIdentity
    meter: ChosenMeter
    backend: Any
    store: CostStore | None
    on_candidate: Callable[[Candidate], None] = lambda candidate: None
    on_result: Callable[[Measurement], None] = lambda measurement: None
    on_batch: Callable[[int], None] = lambda count: None
    deadline_s: float = math.inf
    _search_end_s: float = math.inf
    profiling: ProfilingTotals = field(default_factory=ProfilingTotals)
    _harness: Harness | None = None
    _unknown: set[CostKey] = field(default_factory=set)
    _counted: set[CostKey] = field(default_factory=set)

    roofline_costs = RooflineCosts
    measured_costs = MeasuredCosts
    compiles_for_gpus = False

    @staticmethod
    def back_end(**given: Any) -> KernelBackEnd:
        """The back end with what `RelaxBackEnd` and `RelayBackEnd` take; each kind of bench says which."""
        raise NotImplementedError

    @classmethod
    def open(cls, setup: Setup, warn: Callable[[str], None] = lambda message: None) -> Self:
        """Open everything that the setup names.

        Args:
            setup: what was asked for.
            warn: told, now and later, what the user should know of the cost database.

        Raises:
            TargetError: the target is unknown, or is a GPU and there is none, or no nvcc.
            MeterError: a meter asked for is not there.
            CostStoreError: the database cannot be opened.
        """
        if is_cuda(setup.target) and not cls.compiles_for_gpus:
            raise TargetError(f"the target {setup.target}: this back end compiles for CPUs alone: use --frontend relax")
        device, target, roofline, compiler = _on_gpu(setup) if is_cuda(setup.target) else _on_cpu(setup)
        meter = choose_meter(
            setup.meter, device_kind=device.kind, threads=target.threads, constants_file=setup.energy_constants
        )
        roofline_only = setup.costs == ROOFLINE_COSTS
        backend = cls.back_end(
            target=target,
            device=device.fingerprint,
            compiler=compiler,
            energy_source=meter.meter.source,
            protocol=PROTOCOLS[setup.protocol].version,
            roofline=roofline,
            excluded=frozenset(setup.exclude_algorithms),
            max_error=setup.max_error,
        )
        profiling = ProfilingTotals()

        def lost(journal: Path) -> None:
            profiling.journal = str(journal)

        store = None if roofline_only else going_on(open_store(setup.costs), warn, lost)
        if store is not None and setup.retry_failed:
            store = cast(CostStore, RetryingStore(store))
        return cls(setup, target, device, meter, backend, store, profiling=profiling)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The substitutions that modules can express."""
        return RULES

    @property
    def why(self) -> str:
        """Where energies come from, for people."""
        return self.meter.why

    def tidy(self, graph: Graph) -> Graph:
        """A rewritten graph in canonical form."""
        return canonicalise(graph, self.backend.fuses)

    def costs(self, objective: Objective | None) -> CostSource:
        """The cost source of a search; ``objective`` decides which candidates need not be measured."""
        if self.store is None:
            return self.roofline_costs(self.backend, self.energy_model or self._estimate())
        return self.measured_costs(
            self.backend,
            self.store,
            self.meter.meter.source,
            self.measure,
            objective,
            self.energy_model,
            self._count_known,
            hurried=lambda: min(self.deadline_s, self._search_end_s) < math.inf,
        )

    @property
    def energy_model(self) -> EnergyModel | None:
        """Joules of (work, seconds) where energy is an estimate; None where a sensor measures it."""
        meter = self.meter.meter
        if not isinstance(meter, EstimateMeter):
            return None
        return lambda work, seconds: estimate_energy_j(work, seconds, meter.constants)

    def _estimate(self) -> EnergyModel:
        table = "cuda" if self.device.kind == "cuda" else self.device.isa
        constants = load_constants(table, self.target.threads, self.setup.energy_constants)
        return lambda work, seconds: estimate_energy_j(work, seconds, constants)

    def measure(
        self,
        candidates: Sequence[Candidate],
        keep_going: Callable[[Candidate], bool],
        learn: Callable[[CostKey, Cost | Failure], None],
        rivalry: Rivalry,
    ) -> None:
        """Measure candidates; outcomes are stored and told as they are found."""
        assert self.store is not None
        if self._harness is None:
            protocol = PROTOCOLS[self.setup.protocol]
            on_gpu = self.device.kind == "cuda"  # whose driver reserves more addresses than there is memory
            self._harness = Harness(
                self.store,
                self.meter.factory,
                protocol=protocol,
                threads=self.target.threads,
                limits=Limits(memory_bytes=None if on_gpu else worker_memory_bytes()),
                builders=min(self.target.threads, _MOST_BUILDERS),
            )

        def wanted(candidate: Candidate) -> bool:
            if not keep_going(candidate):
                return False
            if time.monotonic() >= min(self.deadline_s, self._search_end_s):
                self._unknown.add(candidate.key)
                return False
            self.on_candidate(candidate)
            return True

        def found(measurement: Measurement) -> None:
            learn(measurement.key, measurement.outcome)
            self._counted.add(measurement.key)
            self._unknown.discard(measurement.key)
            self.on_result(measurement)

        def found_by_others(key: CostKey, outcome: Cost | Failure) -> None:
            learn(key, outcome)
            self._unknown.discard(key)
            self._count_known({key: outcome})

        self.on_batch(len(candidates))
        summary = profile(candidates, self.store, self._harness, found, wanted, rivalry, found_by_others)
        self.profiling.measured += summary.measured
        self.profiling.failed += summary.failed
        self.profiling.unknown = len(self._unknown)
        self.profiling.seconds += summary.seconds

    def _count_known(self, known: Mapping[CostKey, Cost | Failure]) -> None:
        """Count each outcome that this run did not find itself once, however often it is looked up."""
        new = {key: outcome for key, outcome in known.items() if key not in self._counted}
        self._counted.update(new)
        costs = sum(isinstance(outcome, Cost) for outcome in new.values())
        self.profiling.reused += costs
        self.profiling.failed_before += len(new) - costs

    def limit_search(self, seconds: float | None) -> None:
        """Measure nothing more after so many seconds from now; None lifts an earlier limit, but not the deadline."""
        self._search_end_s = math.inf if seconds is None else time.monotonic() + seconds

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The device for oneself among all that share the database, for timing what was compiled."""
        if self.store is None:
            yield
            return
        with turn(self.store, self.device.fingerprint, lambda: True):
            yield

    def pause(self) -> None:
        """End the worker, so that nothing of it runs beside what follows."""
        if self._harness is not None:
            self._harness.close()

    def close(self) -> None:
        """Release meter, worker and database."""
        self.pause()
        self.meter.meter.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_Opened = tuple[DeviceIdentity, CpuTarget | CudaTarget, Roofline, str]
"""Device, target, the device's bounds, compiler with its version."""


def _on_cpu(setup: Setup) -> _Opened:
    threads = setup.threads or default_threads()
    target = cpu_target(setup.target, threads)
    facts = cpu_facts()
    return local_cpu(threads, facts), target, cpu_roofline(facts, threads), _tvm_version()


def _on_gpu(setup: Setup) -> _Opened:
    """GPU 0, which NVML must show, since costs are measured on it."""
    from joulec.profiler.gpu import gpu_roofline, local_gpu, require_cuda_driver  # 0.1 s: only where asked for

    try:
        device = local_gpu(0)
        if setup.costs != ROOFLINE_COSTS:
            require_cuda_driver()
    except MeterError as error:
        raise TargetError(
            f"the target {setup.target} needs an NVIDIA GPU in this machine, for algorithms are chosen by what they "
            f"cost on it: {error}"
        ) from error
    target = cuda_target(setup.target, device.isa)
    return device, target, gpu_roofline(0), f"{_tvm_version()} {nvcc_version()}"


def _tvm_version() -> str:
    import tvm

    return f"tvm-{tvm.__version__}"
