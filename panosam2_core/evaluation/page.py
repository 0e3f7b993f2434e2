"""An evaluation as a page to look at: one HTML file, no scripts, nothing to load."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from panosam2_core.evaluation.run import SUBSETS, EpisodeScore

WORST = 8
_COLUMNS = {
    "objects": "objects",
    "j_and_f": "J&F",
    "j": "J",
    "f": "F",
    "f_wrap": "F wrap",
    "j_sphere": "J sphere",
    "f_sphere": "F sphere",
    "mean_iou": "IoU",
    "visible_recall": "seen",
    "absent_recall": "absent",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
img { width: 24%; margin-right: .5% } h3 { margin-bottom: .2em } .note { color: #666 }
"""


def page(title: str, result: Mapping[str, Any], rows: Sequence[EpisodeScore]) -> str:
    """Draw an evaluation.

    Args:
        title: of the page.
        result: of :func:`panosam2_core.evaluation.run.evaluate`.
        rows: likewise.

    Returns:
        HTML.
    """
    ranked = sorted((row for row in rows if row.j_and_f is not None), key=lambda r: r.j_and_f or 0)
    worst = "\n".join(_clip(row) for row in ranked[:WORST])
    fps = f", {result['fps']:.1f} frames/s" if result["fps"] else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{result["clips"]} clips, {result["objects"]} objects{fps}. J: overlap, F: agreement of the
boundaries; wrap: with a boundary that goes on across the seam; sphere: by solid angle; IoU: J
where the object can be seen; seen, absent: share of these frames that is reported as such.</p>
{_table(result)}
<h2>J&amp;F by subset</h2>
{_bars(result)}
<h2>J&amp;F of the clips</h2>
{_distribution(ranked)}
<h2>Worst clips</h2>
<p class="note">Truth above, prediction below; the curve is J frame by frame, grey where the object
is out of sight.</p>
{worst}
</html>
"""


def _subsets(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {"all": result, **{name: result[name] for name in SUBSETS}}
    found |= {f"latitude {band}": row for band, row in result["latitude"].items()}
    known = {*SUBSETS, "latitude"}
    found |= {
        k: v
        for k, v in result.items()
        if isinstance(v, Mapping) and "objects" in v and k not in known
    }
    return {name: row for name, row in found.items() if row["objects"]}


def _table(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", *_COLUMNS.values()))
    lines = []
    for name, row in _subsets(result).items():
        cells = "".join(f"<td>{_number(row[key])}</td>" for key in _COLUMNS)
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _bars(result: Mapping[str, Any]) -> str:
    parts = []
    shown = _subsets(result)
    for line, (name, row) in enumerate(shown.items()):
        value, y = row["j_and_f"] or 0.0, 24 * line
        parts.append(
            f'<text x="150" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="160" y="{y + 3}" width="{600 * value:.1f}" height="17" fill="#3b7dd8"/>'
            f'<text x="{168 + 600 * value:.1f}" y="{y + 16}">{value:.3f}</text>'
        )
    return f'<svg width="840" height="{24 * len(shown)}">{"".join(parts)}</svg>'


def _distribution(ranked: Sequence[EpisodeScore]) -> str:
    width = 800 / max(1, len(ranked))
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{160 * (1 - (row.j_and_f or 0)):.1f}" '
        f'width="{max(1.0, width - 2):.1f}" height="{160 * (row.j_and_f or 0):.1f}" '
        f'fill="#3b7dd8"><title>{html.escape(row.name)}: {row.j_and_f:.3f}</title></rect>'
        for i, row in enumerate(ranked)
    )
    return f'<svg width="800" height="162"><path d="M0 161h800" stroke="#888"/>{bars}</svg>'


def _clip(row: EpisodeScore) -> str:
    pictures = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(p).decode()}">'
        for p in row.pictures
    )
    subsets = sorted({name for i in row.scores for name in row.subsets(i)})
    value = f"{row.j_and_f:.3f}" if row.j_and_f is not None else "-"
    return (
        f"<h3>{html.escape(row.name)}: {value}</h3>"
        f'<p class="note">{html.escape(", ".join(subsets))}</p>{pictures}{_curves(row)}'
    )


def _curves(row: EpisodeScore) -> str:
    """J over time, a line per object."""
    parts = []
    for number, score in enumerate(row.scores.values()):
        count = max(1, len(score.agreement) - 1)
        points = " ".join(
            f"{800 * t / count:.1f},{60 - 58 * frame.j:.1f}"
            for t, frame in enumerate(score.agreement)
        )
        hidden = "".join(
            f'<rect x="{800 * t / count:.1f}" width="{800 / count:.1f}" height="60" fill="#ddd"/>'
            for t, visible in enumerate(score.in_sight)
            if not visible
        )
        colour = f"hsl({(number * 137) % 360} 70% 45%)"
        parts.append(f'{hidden}<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return f'<br><svg width="800" height="62">{"".join(parts)}</svg>'
