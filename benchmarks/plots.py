"""Pictures of what was measured, as PNG and SVG: bars of `compare`, curves of `scale`.

It draws what the JSON files hold and measures nothing. matplotlib is an extra, imported when a
picture is asked for and without a display.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare import Row
from benchmarks.machine import CannotMeasure
from benchmarks.scale import Curve
from benchmarks.scale import Row as ScaleRow
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
DPI = 150
OURS, OTHERS, FLOOR = "#0b6e4f", "#8d99ae", "#2b2d42"
# Told apart by shape as well as by colour.
STYLES = {
    "balanced": ("#0b6e4f", "o"),
    "none": ("#c1666b", "s"),
    "rr": ("#3a6ea5", "^"),
    "reuseport": ("#d4a017", "D"),
}
CURVE_STEPS = 200


def check_installed() -> None:
    """Raise CannotMeasure, with the mend, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401 — asked whether it is there
    except ImportError as error:
        raise CannotMeasure(
            f'pictures need matplotlib: pip install -e ".[plots]" ({error})'
        ) from error


def comparison(workloads: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Draw a bar for each server and workload; return the files. Raises CannotMeasure, OSError.

    The bars are multiples of the reference's CPU time per request, on a logarithmic scale that
    begins at 1; where there is no reference, microseconds from 0 on.
    """
    written: list[Path] = []
    for name, rows in workloads.items():
        if rows:
            figure, axes = _figure(8.0, 1.2 + 0.32 * len(rows))
            _bars(axes, name, sorted(rows, key=lambda row: -row.cpu_us_per_request))
            written += _save(figure, folder, f"compare-{name}")
    return written


def scaling(rows: Sequence[ScaleRow], curves: Sequence[Curve], folder: Path) -> list[Path]:
    """Draw measured points, fits and the ideal line of each handler; return the files.

    Raises CannotMeasure, OSError.
    """
    written: list[Path] = []
    for handler in dict.fromkeys(row.handler for row in rows):
        figure, axes = _figure(7.0, 5.0)
        own = [row for row in rows if row.handler == handler]
        _curves(axes, own, [curve for curve in curves if curve.handler == handler])
        axes.set_title(f"{handler}: {WORKLOADS[handler].about}", fontsize=10)
        written += _save(figure, folder, f"scale-{handler}")
    return written


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    check_installed()
    # Not pyplot, which wants a display and keeps every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _bars(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    has_ratios = all(row.ratio is not None for row in rows)
    values = [row.ratio if row.ratio is not None and has_ratios else 0.0 for row in rows]
    if not has_ratios:
        values = [row.cpu_us_per_request for row in rows]
    places = range(len(rows))
    left = 1.0 if has_ratios else 0.0
    axes.barh(
        places, [v - left for v in values], left=left, color=[_colour(r.server) for r in rows]
    )
    if has_ratios:
        low = [max(0.0, v - (r.ratio_low or v)) for v, r in zip(values, rows, strict=True)]
        high = [max(0.0, (r.ratio_high or v) - v) for v, r in zip(values, rows, strict=True)]
        axes.errorbar(
            values, places, xerr=(low, high), fmt="none", ecolor=FLOOR, elinewidth=1, capsize=2
        )
        axes.set_xscale("log")
        most = max([*values, *(r.ratio_high or 1.0 for r in rows)])
        least = min([1.0, *(r.ratio_low or 1.0 for r in rows)])
        axes.set_xlim(least * 0.95, max(2.0, most) * 1.35)
        axes.axvline(1.0, color=FLOOR, linewidth=1)
        ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if tick < most * 1.35]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for place, value, row in zip(places, values, rows, strict=True):
        spoilt = " (errors)" if row.errors else ""
        edge = max(value, row.ratio_high or 0.0) if has_ratios else value
        text = f" {value:.2f}{spoilt}" if has_ratios else f" {value:.0f} µs{spoilt}"
        axes.text(edge, place, text, va="center", fontsize=8)
    axes.set_yticks(list(places), [row.server for row in rows], fontsize=8)
    axes.set_xlabel(
        "CPU time per request as a multiple of the raw epoll loop's; line: lowest to highest round"
        if has_ratios
        else "CPU time per request, µs",
        fontsize=8,
    )
    axes.set_title(f"{name}: {WORKLOADS[name].about}", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _curves(axes: Axes, rows: Sequence[ScaleRow], curves: Sequence[Curve]) -> None:
    most_cores = max(row.cores for row in rows)
    one = max((r.requests_per_s for r in rows if r.workers == 1), default=None)
    if one is not None:
        axes.plot(
            [0, most_cores], [0, one * most_cores], ":", color=FLOOR, label="ideal: N times one"
        )
    fits = {curve.policy: curve.fit for curve in curves if curve.fit is not None}
    for policy in dict.fromkeys(row.policy for row in rows):
        colour, mark = STYLES.get(policy, (OTHERS, "x"))
        own = [row for row in rows if row.policy == policy]
        _points(axes, [row for row in own if row.fits], colour, mark, policy, colour)
        label = f"{policy}, not fitted: see the table" if not any(r.fits for r in own) else None
        _points(axes, [row for row in own if not row.fits], colour, mark, label, "none")
        fit = fits.get(policy)
        if fit is not None:
            steps = [most_cores * (i + 1) / CURVE_STEPS for i in range(CURVE_STEPS)]
            cores = [step for step in steps if step >= 1.0]
            axes.plot(
                cores,
                [fit.law.throughput(n) for n in cores],
                color=colour,
                label=f"{policy}: σ {fit.law.sigma:.3f}, κ {fit.law.kappa:.1e}",
            )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cores that the workers had (less what the load took of them)", fontsize=9)
    axes.set_ylabel("answers per second", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _points(
    axes: Axes, rows: Sequence[ScaleRow], colour: str, mark: str, label: str | None, fill: str
) -> None:
    if rows:
        axes.plot(
            [row.cores for row in rows],
            [row.requests_per_s for row in rows],
            linestyle="none",
            marker=mark,
            color=colour,
            markerfacecolor=fill,
            label=label,
        )


def _colour(server: str) -> str:
    if server == "reference":
        return FLOOR
    return OURS if server.startswith("fastcluster") else OTHERS


def _save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    # Without dates, so that the same figures make the same files.
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": DPI, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None}},
    }
    paths = [folder / f"{stem}.{form}" for form in FORMATS]
    for form, path in zip(FORMATS, paths, strict=True):
        figure.savefig(path, **options[form])
    return paths


def names(paths: Iterable[Path]) -> str:
    """Return the files' names for a line of progress."""
    return ", ".join(path.name for path in paths)
