"""Charts of a run's timeline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from parallel_openai._display.blocks import Axis, Curve, Picture, Tone
from parallel_openai._progress.number_format import clock_time, short

Numbers = npt.NDArray[np.float64]

#: The chart is cut off at this multiple of the limit, because a burst at the start may reach many times the limit.
_TALLEST = 2.0
_POINTS = 160


def coarser(timeline: pd.DataFrame) -> pd.DataFrame:
    """Average neighbouring rows, so that there are no more rows than points in a chart."""
    group = max(1, -(-len(timeline) // _POINTS))
    return timeline.groupby(np.arange(len(timeline)) // group).mean().set_index(timeline.index[::group])


def rates(name: str, timeline: pd.DataFrame, utilisation: float | None) -> Picture:
    minutes = timeline["width"].to_numpy() / 60
    limits = timeline[f"max_{name}_per_minute"].to_numpy()
    known = limits[~np.isnan(limits)]
    columns = ["sent", "refused"] if name == "requests" else ["tokens_charged", "tokens_used"]
    if name == "tokens" and not len(known):  # without a limit nothing is charged
        columns = ["tokens_used"]
    main, *others = ((column.removeprefix("tokens_"), timeline[column].to_numpy() / minutes) for column in columns)
    highest = max(float(main[1].max()), 1.0)
    top = max(min(1.1 * highest, _TALLEST * known.max()), 1.15 * known.max()) if len(known) else 1.1 * highest
    edges = _edges(timeline).tolist()
    peak = f"peak {short(highest)}" if highest > top or not len(known) else ""
    curves = [Curve(main[0], "area", edges, main[1].tolist(), label=peak)]
    curves += [
        Curve(each, "steps", edges, rate.tolist(), 2 if each == "refused" else 1) for each, rate in others if rate.any()
    ]
    if len(known):
        curves.append(Curve("limit", "steps", edges, limits.tolist(), None, label=f"limit {short(float(known[-1]))}"))
    title = f"{name.capitalize()} per minute, {used(utilisation)}"
    return Picture(title, _seconds(edges[-1]), Axis("", 0.0, float(top), ("0", short(float(top)))), curves)


def latencies(timeline: pd.DataFrame, latency: Mapping[str, float]) -> Picture:
    seconds = timeline["seconds"].dropna()
    end = float(_edges(timeline)[-1])
    middle = (seconds.index + timeline["width"].iloc[0] / 2).tolist()
    top = 1.1 * max(seconds.max(), latency.get("p99", 0.0)) if len(seconds) else 1.0
    curves = [Curve("mean", "line", middle, seconds.tolist())]
    tones: tuple[tuple[str, Tone], ...] = (("p50", None), ("p90", 1), ("p99", 2))
    curves += [Curve(name, "line", [0.0, end], [latency[name]] * 2, tone) for name, tone in tones if name in latency]
    return Picture("Seconds for an answer", _seconds(end), Axis("", 0.0, float(top), ("0", f"{top:.2g}")), curves)


def used(share: float | None) -> str:
    """The used share of a limit, in words.

    >>> used(None), used(0.984), used(6.47)
    ('limit not known', '98% of the limit', '6.5 times the limit (a burst)')
    """
    if share is None:
        return "limit not known"
    # Up to 1.1 is within what the edges of a window allow.
    return f"{share:.0%} of the limit" if share < 1.1 else f"{share:.1f} times the limit (a burst)"


def _seconds(end: float) -> Axis:
    return Axis("seconds", 0.0, end, ("0:00", clock_time(end)))


def _edges(timeline: pd.DataFrame) -> Numbers:
    starts = timeline.index.to_numpy(dtype="float64")
    step = starts[1] - starts[0] if len(starts) > 1 else timeline["width"].iloc[0]
    edges: Numbers = np.append(starts, starts[-1] + step)
    return edges
