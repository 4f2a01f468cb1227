"""A report as text: a block a path, a line a stage. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterator

from cellseg1_rt.benchmarking.report import ContenderRow, Report
from cellseg1_rt.benchmarking.summary import Spread, StageRow

__all__ = ["lines_of"]

_HEADER = (
    f"{'stage':12}{'ms an image (quartiles)':>27}{'GFLOP':>9}{'GFLOP/s':>9}{'of GEMM':>9}"
    f"{'MB':>9}{'GB/s':>8}{'of copy':>9}"
)


def lines_of(report: Report) -> Iterator[str]:
    """The report, a line at a time."""
    machine, settings, bundle = report.machine, report.settings, report.bundle
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    yield (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads a runtime, "
        f"{machine['kernel_threads']} for kernels, load {machine['load_average_1min']}"
    )
    yield versions
    yield (
        f"{bundle['name']}, {bundle['backbone']['name']} at {bundle['image_size']} px, manifest "
        f"{bundle['manifest_sha256'][:12]}; {len(report.images)} images × {report.repeats} rounds; "
        f"{settings['points_per_side']}² points, crops {settings['crops']}, "
        f"{settings['prompt_batch']} prompts a call"
    )
    for precision, by_runtime in report.ceilings.gemm_flop_per_s.items():
        found = ", ".join(f"{flop / 1e9:.0f} {name}" for name, flop in by_runtime.items())
        measured = f"{found} GFLOP/s" if found else "no ceiling measured on a card"
        yield f"ceiling of matrix products, {precision}: {measured}"
    yield f"ceiling of copying: {report.ceilings.copy_bytes_per_s / 1e9:.1f} GB/s"
    for row in report.contenders:
        yield ""
        yield from _block(row, report.reference)
    if report.memory:
        yield ""
    for peak in report.memory:
        yield (
            f"peak memory, {peak.path}: {peak.peak_mbytes:.0f} MB, "
            f"{peak.loaded_mbytes:.0f} MB of it once loaded"
        )


def _block(row: ContenderRow, reference: str) -> Iterator[str]:
    yield f"{row.name}, {row.prompts_passed:.0f} prompts an image pass the score"
    yield _HEADER
    for stage in row.stages:
        yield _line(stage)
    yield f"{'to labels':12}{_milliseconds(row.segmenting_seconds):>27}"
    if row.times_faster is not None:
        faster = row.times_faster
        yield (
            f"{'':12}{faster.median:.2f} times faster than {reference} "
            f"({faster.q1:.2f}–{faster.q3:.2f}, of pairs)"
        )
    labels = "the reference" if row.agreement is None else f"against {reference}: {row.agreement}"
    yield f"{'':12}labels: {labels}"


def _line(row: StageRow) -> str:
    return (
        f"{row.stage:12}{_milliseconds(row.seconds):>27}{_number(row.gflop, 2):>9}"
        f"{_number(row.gflop_per_s, 1):>9}{_percent(row.share_of_gemm):>9}"
        f"{_number(row.mbytes, 1):>9}{_number(row.gbyte_per_s, 2):>8}"
        f"{_percent(row.share_of_copy):>9}"
    )


def _milliseconds(seconds: Spread) -> str:
    median, q1, q3 = (1e3 * value for value in (seconds.median, seconds.q1, seconds.q3))
    return f"{median:.1f} ({q1:.1f}–{q3:.1f})"


def _number(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if value else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
