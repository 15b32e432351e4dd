"""The command `python -m benchmarks`: what to measure, told on the command line.

It alone prints for people and ends with an exit code: 0 when it measured, 1 when fastcluster
or the reference failed (a peer may fail; the table says so), 2 for a mistake on the command
line or a machine that cannot measure. Tables go to stdout, progress to stderr.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from benchmarks import (
    build,
    catalogue,
    client,
    compare,
    guard,
    instructions,
    layout,
    load,
    machine,
    memory,
    page,
    parts,
    plots,
    process,
    report,
    scale,
    scale_report,
)
from benchmarks.catalogue import ROOT, Places, ServerEntry
from benchmarks.workloads import WORKLOADS, Workload

Command = TypeVar("Command", bound=Callable[..., Any])
FAILURES = (process.ServerFailed, client.WrongAnswer, load.LoadFailed, OSError)
DEFAULT_WORKLOADS = "hello,browser,pipeline"


def split_names(ctx: click.Context, option: click.Parameter, value: str) -> list[str]:
    """Split an option's value at its commas; blanks around names do not count."""
    return [name.strip() for name in value.split(",") if name.strip()]


def tell(line: str) -> None:
    """Say one line of progress, beside the tables."""
    click.echo(line, err=True)


def plainly(command: Command) -> Command:
    """End with one line and exit code 2 where the machine or the question does not allow it."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except machine.CannotMeasure as why:
            click.echo(f"benchmarks: {why}", err=True)
            sys.exit(2)

    return run  # type: ignore[return-value]


def server_options(default_servers: str) -> Callable[[Command], Command]:
    """Add the options that say which servers, and where their programs are."""

    def add(command: Command) -> Command:
        for option in (
            click.option(
                "--servers",
                callback=split_names,
                default=default_servers,
                help="Names from servers.toml, * allowed; nothing means all of them."
                + (f"  [default: {default_servers}]" if default_servers else ""),
            ),
            click.option(
                "--catalogue",
                "catalogue_file",
                type=click.Path(path_type=Path, dir_okay=False),
                default=catalogue.FILE,
                help="A file like benchmarks/servers.toml.",
            ),
            click.option(
                "--peers",
                "peers_folder",
                type=click.Path(path_type=Path, file_okay=False),
                default=catalogue.PEERS,
                help="The peers' virtual environment (made by `python -m benchmarks peers`).",
            ),
            click.option(
                "--python",
                default=sys.executable,
                help="The Python that runs fastcluster; this one if not given.",
            ),
        ):
            command = option(command)
        return command

    return add


def json_option(command: Command) -> Command:
    """Add the option for a JSON file."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Also write everything that was measured to this file.",
    )(command)


def plots_option(command: Command) -> Command:
    """Add the option for pictures."""
    return click.option(
        "--plots",
        "plots_folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Also draw pictures into this folder, as PNG and SVG; needs matplotlib.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure fastcluster beside its peers and a raw C loop; benchmarks/README.md says how."""
    signal.signal(signal.SIGTERM, _stop)


@main.command("compare")
@click.option(
    "--workloads",
    callback=split_names,
    default=DEFAULT_WORKLOADS,
    show_default=True,
    help=f"Of {', '.join(WORKLOADS)}.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Of load in each round.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Seconds of load before each measurement that do not count.",
)
@click.option("--connections", type=click.IntRange(1), default=64, show_default=True)
@server_options("")
@json_option
@plots_option
@plainly
def compare_command(
    workloads: list[str],
    rounds: int,
    seconds: int,
    warm_up_s: int,
    connections: int,
    servers: list[str],
    catalogue_file: Path,
    peers_folder: Path,
    python: str,
    json_file: Path | None,
    plots_folder: Path | None,
) -> None:
    """Load servers side by side, one worker on one core, wrk on another."""
    load.check_installed()
    _check_plots(plots_folder)
    cores = machine.choose_cores()
    if cores.are_siblings:
        tell("the two cores are threads of one core, so server and load slow each other down")
    chosen = _workloads(workloads)
    most = max(workload.connections or connections for workload in chosen)
    machine.raise_file_limit(_files_for(most))
    places = _places(python, peers_folder)
    entries, versions, absent = _installed(
        catalogue.choose(catalogue.read(catalogue_file), servers), places
    )
    described = machine.describe(cores)
    versions["wrk"] = load.version()
    click.echo(report.machine_line(described, versions))
    plan = compare.Plan(rounds, seconds, connections, warm_up_s)
    measured: dict[str, tuple[compare.Samples, compare.Failures]] = {}
    for workload in chosen:
        measure_one = partial(
            compare.measure, workload=workload, plan=plan, cores=cores, places=places
        )
        tell(f"workload {workload.name}")
        able = [entry for entry in entries if entry.serves(workload)]
        measured[workload.name] = compare.run_rounds(able, rounds, measure_one, tell)
        samples, failures = measured[workload.name]
        click.echo(report.comparison(workload, plan, compare.summarise(samples), failures))
        if json_file is not None:
            # After every workload, so that an interrupted run leaves what it has measured.
            data = report.document(described, plan, versions, measured, absent)
            report.write(json_file, data)
    if plots_folder is not None:
        rows = {name: compare.summarise(samples) for name, (samples, _) in measured.items()}
        tell(f"drawn: {plots.names(plots.comparison(rows, plots_folder))}")
    ours = {entry.name for entry in entries if entry.package is None}
    _finish(any(ours & set(failures) for _, failures in measured.values()))


@main.command("scale")
@click.option(
    "--handlers",
    callback=split_names,
    default=",".join(scale.HANDLERS),
    show_default=True,
    help="Workloads that have a native application.",
)
@click.option(
    "--policies",
    callback=split_names,
    default="",
    help=f"Of {', '.join(policy.name for policy in scale.POLICIES)}; nothing means all.",
)
@click.option(
    "--workers",
    "counts",
    default="",
    help="Numbers of workers such as 1-4,8.  [default: 1, 2, 3, 4, 6, 8, 12, 16 … all cores]",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--warm-up", "warm_up_s", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="For each worker.",
)
@click.option("--python", default=sys.executable, help="The Python that runs fastcluster.")
@json_option
@plots_option
@plainly
def scale_command(
    handlers: list[str],
    policies: list[str],
    counts: str,
    rounds: int,
    seconds: int,
    warm_up_s: int,
    connections: int,
    python: str,
    json_file: Path | None,
    plots_folder: Path | None,
) -> None:
    """Measure 1, 2, … N workers on the cores there are, and fit the Universal Scalability Law."""
    load.check_installed()
    _check_plots(plots_folder)
    cores = layout.usable()
    numbers = (
        layout.parse_counts(counts, len(cores)) if counts else layout.worker_counts(len(cores))
    )
    layouts = [layout.lay_out(number, cores) for number in numbers]
    for workload in _workloads(handlers):
        if "native" not in workload.interfaces or workload.module != "benchmarks.apps":
            raise machine.CannotMeasure(f"{workload.name} has no native application to scale")
    chosen = scale.choose(policies)
    machine.raise_file_limit(_files_for(connections * max(numbers)))
    there = [policy for policy in chosen if scale.is_there(policy, python)]
    absent = [policy.name for policy in chosen if policy not in there]
    plan = scale.Plan(rounds, seconds, warm_up_s, connections)
    places = Places(python=python)
    measure_one = partial(scale.measure, plan=plan, places=places)
    samples, failures = scale.run_rounds(plan, there, handlers, layouts, measure_one, tell)
    rows = scale.summarise(samples)
    curves = scale.curves(samples, rows)
    described = machine.describe()
    ours = next(entry for entry in catalogue.read() if entry.interface == "native")
    versions = {"fastcluster": catalogue.version(ours, places) or "", "wrk": load.version()}
    click.echo(report.machine_line(described, versions))
    click.echo(scale_report.policies() + "\n")
    click.echo(scale_report.scaling(plan, rows, curves, failures, absent, len(cores)))
    if json_file is not None:
        data = scale_report.document(
            described, plan, versions, samples, rows, curves, failures, absent
        )
        report.write(json_file, data)
    if plots_folder is not None:
        tell(f"drawn: {plots.names(plots.scaling(rows, curves, plots_folder))}")
    _finish(bool(failures))


@main.command("memory")
@click.option("--connections", type=click.IntRange(1), default=10_000, show_default=True)
@server_options("reference,fastcluster-native-llhttp,fastcluster-wsgi-llhttp")
@json_option
@plainly
def memory_command(
    connections: int,
    servers: list[str],
    catalogue_file: Path,
    peers_folder: Path,
    python: str,
    json_file: Path | None,
) -> None:
    """Weigh idle keep-alive connections in user memory."""
    machine.raise_file_limit(_files_for(connections))
    places = _places(python, peers_folder)
    entries, versions, _ = _installed(
        catalogue.choose(catalogue.read(catalogue_file), servers), places
    )
    held = []
    has_failed = False
    for entry in entries:
        tell(f"{connections} connections to {entry.name}")
        try:
            held.append(memory.measure(entry, WORKLOADS["hello"], connections, places))
        except FAILURES as failure:
            tell(f"{entry.name} failed: {failure}")
            has_failed |= entry.package is None
    click.echo(report.machine_line(machine.describe(), versions))
    click.echo(report.idle_memory(held))
    if json_file is not None:
        report.write(json_file, report.memory_document(machine.describe(), versions, held))
    _finish(has_failed)


@main.command("instructions")
@click.option(
    "--workloads",
    callback=split_names,
    default=DEFAULT_WORKLOADS,
    show_default=True,
    help=f"Of {', '.join(WORKLOADS)}; how many connections there are makes no difference.",
)
@click.option(
    "--requests",
    type=click.IntRange(16),
    default=4000,
    show_default=True,
    help="N: the server answers N and then, started afresh, 2 N.",
)
@server_options("fastcluster-native-llhttp,fastcluster-wsgi-llhttp")
@json_option
@plainly
def instructions_command(
    workloads: list[str],
    requests: int,
    servers: list[str],
    catalogue_file: Path,
    peers_folder: Path,
    python: str,
    json_file: Path | None,
) -> None:
    """Count instructions per request with callgrind."""
    instructions.check_installed()
    chosen = _workloads(workloads)
    places = _places(python, peers_folder)
    entries, versions, _ = _installed(
        catalogue.choose(catalogue.read(catalogue_file), servers), places
    )
    counts = []
    has_failed = False
    for entry in entries:
        for workload in chosen:
            tell(f"{entry.name}: {workload.name}")
            try:
                counts.append(instructions.measure(entry, workload, requests, places))
            except FAILURES as failure:
                tell(f"{entry.name} failed: {failure}")
                has_failed |= entry.package is None
    click.echo(report.machine_line(machine.describe(), versions))
    click.echo(report.instruction_counts(counts))
    if json_file is not None:
        data = report.instructions_document(machine.describe(), versions, counts)
        report.write(json_file, data)
    _finish(has_failed)


@main.command("parts")
@click.argument("names", metavar="[PART]...", nargs=-1)
@json_option
@plainly
def parts_command(names: tuple[str, ...], json_file: Path | None) -> None:
    """Measure the C parts by themselves, a program each; nothing means all of them."""
    costs = parts.measure(names, tell)
    click.echo(report.machine_line(machine.describe(), {}))
    click.echo(report.part_costs(costs))
    if json_file is not None:
        report.write(json_file, report.parts_document(machine.describe(), costs))


@main.command("guard")
@click.option("--update", is_flag=True, help="Write what is counted into the file.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=guard.FILE,
    help="A file like benchmarks/guard.json.",
)
@plainly
def guard_command(update: bool, file: Path) -> None:
    """Fail if a request takes more instructions than the file says."""
    name = guard.key()
    kept = guard.read(file)
    if name not in kept and not update:
        click.echo(f"not judged: {file} has no figures for {name}; it has those for")
        for known in kept or ["nothing"]:
            click.echo(f"  {known}")
        return
    instructions.check_installed()
    try:
        counted = guard.count(tell)
    except FAILURES as failure:
        tell(f"fastcluster failed: {failure}")
        sys.exit(1)
    old = kept.get(name, {})
    click.echo(report.guarded(name, old, counted))
    if update:
        report.write(file, guard.updated(kept, name, counted))
        click.echo(f"written to {file}")
        return
    verdict = guard.judge(old, counted)
    click.echo("\n".join(report.verdict(verdict)))
    _finish(bool(verdict.grown or verdict.missing))


@main.command("report")
@click.argument(
    "json_files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Write it there instead of to stdout; the page is {page.OUTPUT.relative_to(ROOT)}.",
)
@plots_option
@plainly
def report_command(
    json_files: tuple[Path, ...], output: Path | None, plots_folder: Path | None
) -> None:
    """Make the page docs/performance.md from what compare, scale and memory wrote with --json."""
    _check_plots(plots_folder)
    runs = [page.read(file) for file in json_files]
    text = page.page(runs)
    for run in runs if plots_folder is not None else ():
        assert plots_folder is not None
        drawn = []
        if isinstance(run, page.Run):
            drawn = plots.comparison(run.rows, plots_folder)
        elif isinstance(run, page.ScaleRun):
            drawn = plots.scaling(run.rows, run.curves, plots_folder)
        tell(f"drawn: {plots.names(drawn)}")
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise machine.CannotMeasure(f"{output} cannot be written: {error.strerror}") from error
    tell(f"written to {output}")


@main.command("peers")
@click.option(
    "--catalogue",
    "catalogue_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=catalogue.FILE,
    help="A file like benchmarks/servers.toml.",
)
@click.option(
    "--peers",
    "peers_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=catalogue.PEERS,
    help="Where to make the virtual environment.",
)
@plainly
def peers_command(catalogue_file: Path, peers_folder: Path) -> None:
    """Install the peers into an environment of their own."""
    installed = build.peers(peers_folder, catalogue.read(catalogue_file))
    for package, is_installed in installed.items():
        click.echo(f"{package}: {'installed' if is_installed else 'could not be installed'}")
    _finish(not all(installed.values()))


def _check_plots(folder: Path | None) -> None:
    # Before anything is measured, so that no run of an hour ends without its pictures.
    if folder is not None:
        plots.check_installed()


def _workloads(names: Sequence[str]) -> list[Workload]:
    for name in names:
        if name not in WORKLOADS:
            raise machine.CannotMeasure(
                f"no workload is named {name}; there are {', '.join(WORKLOADS)}"
            )
    return [WORKLOADS[name] for name in dict.fromkeys(names)]


def _places(python: str, peers_folder: Path) -> Places:
    # The path is made whole, but a symbolic link is kept: it is what makes a virtual
    # environment's python that environment's.
    places = Places(python=python, peers=peers_folder.absolute() / "bin")
    build.program(places.reference, build.SOURCE)
    build.program(catalogue.WEBSOCKET_LOAD, build.WEBSOCKET_SOURCE)
    build.files(catalogue.FILES)
    return places


def _installed(
    entries: Sequence[ServerEntry], places: Places
) -> tuple[list[ServerEntry], dict[str, str], list[str]]:
    """Sort out what is there, with its versions, from what is not, and say so."""
    versions: dict[str, str] = {}
    for entry in entries:
        found = catalogue.version(entry, places)
        if found is not None:
            versions[entry.name] = found
    absent = [entry.name for entry in entries if entry.name not in versions]
    for entry in entries:
        if entry.name in absent:
            mend = "run `python -m benchmarks peers`" if entry.package else "build it first"
            tell(f"{entry.name} is not there and is left out: {mend}")
    return [entry for entry in entries if entry.name in versions], versions, absent


def _files_for(n_connections: int) -> int:
    # A server may hold back a fifth of its descriptors and some more for itself.
    return n_connections * 3 // 2 + 1024


def _finish(has_failed: bool) -> None:
    if has_failed:
        sys.exit(1)


def _stop(signum: int, frame: object) -> NoReturn:
    # Leaves through every context manager, so that no server outlives a stopped run.
    sys.exit(128 + signum)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
