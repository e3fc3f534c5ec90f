"""`geniehive bench`: measure a model, role or service through the gateway, and give the cluster what was found."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from geniehive.cli import cells, options
from geniehive.cli.gateway_client import GatewayTarget, gateway_target
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_document, print_table
from geniehive.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    import httpx

    from geniehive.benchmarks.outcome import Spread, WorkloadResult
    from geniehive.benchmarks.report import Report
    from geniehive.benchmarks.runner import Plan
    from geniehive.benchmarks.workloads import Workload

bench = typer.Typer(
    help="Measure models through the gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Key = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="GENIEHIVE_API_KEY",
        show_envvar=True,
        help="Key for the gateway, instead of the config's. Better set by the variable: others can see your arguments.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(bench, name="bench")


@bench.callback()
def group() -> None:
    """Measure models through the gateway."""


@bench.command("workloads")
def list_workloads(output: options.OutputFormat = Output.TABLE) -> None:
    """List the built-in workloads."""
    from geniehive.benchmarks.workloads import builtin

    every = builtin().values()
    if output in {Output.JSON, Output.YAML}:
        values = [
            {"name": each.name, "operation": each.operation, "cases": len(each.cases), "about": each.about}
            for each in every
        ]
        print_document(values, output)
        return
    rows = [(each.name, each.operation.value, str(len(each.cases)), each.about) for each in every]
    print_table(Listing(columns=("WORKLOAD", "OPERATION", "REQUESTS", "ABOUT"), rows=rows, values=None))


@bench.command()
def run(
    model: Annotated[str, typer.Argument(help="Asset, alias, service id or role.")],
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", "-w", help="Which, again and again; 'chat.' is all of chat. Else all that it can."),
    ] = None,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=0, max=100_000, help="Of each workload; 0 is each of its cases once.")
    ] = 0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=1000, help="Requests at a time.")] = 1,
    warmup: Annotated[int, typer.Option("--warmup", min=0, max=100, help="Requests before that do not count.")] = 1,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="Recording (WAV) instead of the built-in tone.")
    ] = None,
    transcript: Annotated[str, typer.Option("--transcript", help="What is said in --audio; so it can be judged.")] = "",
    report: Annotated[
        Path, typer.Option("--report", metavar="FILE", help="Where the JSON report goes; - is standard output.")
    ] = Path("geniehive-bench.json"),
    ingest_too: Annotated[bool, typer.Option("--ingest", help="Post the report when it is done.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")] = 300.0,
    config: options.ConfigFile = None,
    gateway: options.Gateway = "",
    api_key: Key = "",
) -> None:
    """Run workloads against a model, role or service, and write a JSON report."""
    import asyncio

    from geniehive.benchmarks.report import encode
    from geniehive.benchmarks.runner import Plan

    chosen = _chosen(workload, audio, transcript)
    where = gateway_target(config, gateway, api_key)
    plan = Plan(requests=requests, concurrency=concurrency, warmup=warmup)
    found = asyncio.run(_measure(where, timeout, model, chosen, plan, asked=bool(workload)))
    raw = encode(found)
    if str(report) == "-":
        sys.stdout.write(raw.decode())
    else:
        _write(report, raw)
        _print(found)
        print(f"\nreport: {report}")
    if ingest_too:
        _post(where, raw, sys.stderr if str(report) == "-" else sys.stdout)
    if all(each.failures == each.requests for each in found.results):
        raise InvalidRequest(f"every request failed: {_first_error(found)}")


@bench.command()
def ingest(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="What bench run wrote; - is standard input.")],
    config: options.ConfigFile = None,
    gateway: options.Gateway = "",
    api_key: Key = "",
) -> None:
    """Post a report to the cluster: its samples are stored, all or none, and count in scores."""
    from geniehive.benchmarks.report import samples_in

    raw = sys.stdin.buffer.read() if str(report) == "-" else _read(report)
    samples_in(raw)  # what is plainly wrong need not travel
    _post(gateway_target(config, gateway, api_key), raw, sys.stdout)


def _client(where: GatewayTarget, timeout_s: float) -> httpx.AsyncClient:
    import httpx

    headers = {"authorization": f"Bearer {where.key}"} if where.key else {}
    limits = httpx.Limits(max_connections=None)
    try:
        return httpx.AsyncClient(base_url=where.url, headers=headers, timeout=timeout_s, limits=limits, trust_env=False)
    except (httpx.InvalidURL, UnicodeEncodeError):
        raise ConfigError(f"--gateway {where.url!r} is no URL, or the key is not plain ASCII") from None


def _chosen(names: list[str] | None, audio: Path | None, transcript: str) -> tuple[Workload, ...]:
    from geniehive.benchmarks.workloads import Clip, builtin, chosen, transcription

    found = chosen(names) if names else tuple(builtin().values())
    if audio is None:
        if transcript:
            raise InvalidRequest("--transcript is what is said in --audio: name the recording as well")
        return found
    own = transcription((Clip(wav=_read(audio), said=transcript),))
    return tuple(own if each.name == own.name else each for each in found)


async def _measure(
    where: GatewayTarget, timeout_s: float, model: str, workloads: tuple[Workload, ...], plan: Plan, *, asked: bool
) -> Report:
    """Run what the model can do of the workloads; what was asked for by name it has to be able to do."""
    from geniehive import __version__
    from geniehive.benchmarks.outcome import samples
    from geniehive.benchmarks.report import FORMAT, Report
    from geniehive.benchmarks.runner import Runner

    results: list[WorkloadResult] = []
    found: list[Any] = []
    started = time.time_ns() // 1_000_000
    async with _client(where, timeout_s) as client:
        runner = Runner(client, model)
        target = await runner.look(dict.fromkeys(each.operation for each in workloads))
        able = [each for each in workloads if each.operation in target.operations]
        if not able or (asked and len(able) < len(workloads)):
            cannot = ", ".join(each.name for each in workloads if each not in able)
            raise InvalidRequest(f"{model} cannot be asked for {cannot}")
        with _Progress() as progress:
            for workload in able:
                result = await runner.run(workload, plan, progress.begin(workload, plan))
                results.append(result)
                now_ms = time.time_ns() // 1_000_000
                found += samples(result, target.alone, now_ms, lambda: uuid.uuid4().hex)
    return Report(
        format=FORMAT,
        target=model,
        gateway=where.url,
        version=__version__,
        started_at_ms=started,
        ended_at_ms=time.time_ns() // 1_000_000,
        results=tuple(results),
        samples=tuple(found),
    )


class _Progress:
    """A bar for each workload, on standard error; none where that is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, workload: Workload, plan: Plan) -> Any:
        """Show a bar; what to call with each outcome."""
        bar = self._bars.add_task(workload.name, total=plan.requests or len(workload.cases), failed="")
        failures = 0

        def done(outcome: Any) -> None:
            nonlocal failures
            failures += bool(outcome.error)
            self._bars.update(bar, advance=1, failed=f"{failures} failed" if failures else "")

        return done


def _post(where: GatewayTarget, raw: bytes, out: Any) -> None:
    import asyncio

    from geniehive.benchmarks.runner import post_report

    async def post() -> tuple[str, ...]:
        async with _client(where, 30) as client:
            return await post_report(client, raw)

    ids = asyncio.run(post())
    print(f"stored {len(ids)} sample{'' if len(ids) == 1 else 's'}", file=out)


def _print(report: Report) -> None:
    columns = ("WORKLOAD", "OK", "QUALITY", "TTFT P50", "P95", "TPOT P50", "P95", "TOK/S", "LATENCY P50", "P95")
    rows = [
        (
            each.workload,
            f"{each.requests - each.failures}/{each.requests}",
            cells.UNKNOWN if each.quality is None else f"{each.quality:.0%}",
            *_milliseconds(each.ttft_seconds),
            *_milliseconds(each.tpot_seconds),
            cells.count(each.tokens_per_second.p50 if each.tokens_per_second else None, 1),
            *_milliseconds(each.latency_seconds),
            ", ".join(f"{name or 'nobody'} ({count})" for name, count in each.services.items()),
        )
        for each in report.results
    ]
    print_table(Listing(columns=(*columns, "ANSWERED BY"), rows=rows, values=None))
    for each in report.results:
        for error, count in each.errors.items():
            print(f"{each.workload}: {count} x {error}", file=sys.stderr)


def _milliseconds(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return cells.UNKNOWN, cells.UNKNOWN
    return f"{spread.p50 * 1000:.4g} ms", f"{spread.p95 * 1000:.4g} ms"


def _first_error(report: Report) -> str:
    return next((error for each in report.results for error in each.errors), "nothing was asked")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _write(path: Path, raw: bytes) -> None:
    try:
        path.write_bytes(raw)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
