"""``joulec run``: a compiled model, once or for a while beneath a power cap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from joulec.arguments import AsJson, Seed, Threads, catch, print_json, quantity
from joulec.completion import policies, session_meters


@catch
def run(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A compiled model.", show_default=False)],
    inputs: Annotated[Path | None, typer.Option(help="Inputs by name (.npz); random ones when left out.")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Where outputs go (.npz).")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed calls, with --print-time or --profile.")] = 20,
    print_time: Annotated[bool, typer.Option("--print-time", help="Measure the latency.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Measure the time of each operator.")] = False,
    power_cap: Annotated[
        float | None, typer.Option("--power-cap", parser=quantity("W"), help="Run beneath this power, e.g. 150W.")
    ] = None,
    cap_file: Annotated[
        Path | None, typer.Option(help="File that holds the cap and may change, or a trace t_s,cap_w (.csv).")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy; default: frontier where the artifact has predictions, else windowed.",
            autocompletion=policies,
        ),
    ] = None,
    cap_margin: Annotated[float, typer.Option(min=0.0, max=1.0, help="Power is kept in [margin·cap, cap].")] = 0.8,
    latency_slo: Annotated[
        float | None,
        typer.Option("--latency-slo", parser=quantity("s"), help="Slower batch sizes are not used."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", parser=quantity("s"), help="Keep it busy this long, e.g. 20s.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option(help="As of compile; or scripted:FILE.", autocompletion=session_meters)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the timeline: .png, .svg or .pdf, with --duration.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            help="Offer Prometheus metrics there, on all of this machine's addresses.",
        ),
    ] = None,
    clocks: Annotated[
        str | None,
        typer.Option(metavar="nvml", help="Let the policy set GPU 0's clock too, which needs root's rights."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Variant to run; default: the best under its objective, or with a cap what the policy picks."
        ),
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a compiled model: once, or for a while beneath a power cap.

    Example: joulec run model.joulec --power-cap 150W --duration 20s
    """
    from joulec.render import Display, show_run
    from joulec.running import RunOptions, run_artifact

    if plot is not None:
        from joulec.options import OptionError
        from joulec.plot_sweep import check_plot

        if duration is None:
            raise OptionError("--plot needs --duration: a single run has no timeline")
        check_plot(plot)
    options = RunOptions(
        inputs=inputs, outputs=outputs, repeat=repeat, print_time=print_time, profile=profile, power_cap_w=power_cap,
        cap_file=cap_file, policy=policy, cap_margin=cap_margin, latency_slo_s=latency_slo, duration_s=duration,
        meter=meter, metrics_port=metrics_port, clocks=clocks, variant=variant, threads=threads, seed=seed,
    )  # fmt: skip
    with Display() as display:
        report = run_artifact(artifact, options, display.stage)
    if plot is not None:
        from joulec.plot_run import draw_run

        draw_run(report["session"], plot)
    if as_json:
        print_json(report)
    show_run(report)
