"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render(figures: Mapping[str, Any]) -> str:
    """Tables of start-up, its steps, memory and size."""
    about, start_up = figures["machine"], figures["start_up"]
    lines = [
        f"{figures['bundle']} on {figures['backend']}, {about['cpu']}, {about['cpus']} CPUs, Python {about['python']}; "
        f"medians of {figures['runs']} cold processes of each kind, in turns. `{figures['command']}`",
        "",
        "| process | first detection after, ms (least) | peak memory, MiB |",
        "|---|---|---|",
    ]
    for name, found in start_up.items():
        least = min(found["first_detection_ms"])
        lines.append(f"| {name} | {found['median_ms']:.0f} ({least:.0f}) | {found['peak_mib']:.0f} |")
    names = list(figures["steps"])
    lines += [
        "",
        "| step ends after, ms (resident, MiB) | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for place, step in enumerate(figures["steps"][names[0]]):
        cells = [figures["steps"][name][place] for name in names]
        row = " | ".join(f"{cell['ms']:.0f} ({cell['resident_mib']:.0f})" for cell in cells)
        lines.append(f"| {step['step']} | {row} |")
    lines += ["", "| resident after 21 frames, MiB | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    held = figures["memory_mib"]
    for owner in sorted({key for name in names for key in held[name]}, key=lambda key: -held[names[0]].get(key, 0.0)):
        lines.append(f"| {owner} | " + " | ".join(f"{held[name].get(owner, 0.0):.1f}" for name in names) + " |")
    lines.append("| **together** | " + " | ".join(f"**{sum(held[name].values()):.1f}**" for name in names) + " |")
    lines += ["", "| on the disk | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.1f} |" for name, size in figures["size_bytes"].items()]
    return "\n".join(lines) + "\n"
