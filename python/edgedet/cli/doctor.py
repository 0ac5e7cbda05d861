"""``edgedet doctor``: what this installation can do, what the rest would need, and what is known to go wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import board
from edgedet.doctor.bundle import examine
from edgedet.doctor.finding import Finding
from edgedet.doctor.installation import installation_findings, read_installation
from edgedet.doctor.machine import Machine, machine_findings, read_machine
from edgedet.terminal.json_output import add_json
from edgedet.terminal.table import print_table

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="show what this installation can do and what is known to go wrong",
        description="Show versions, what the compiled module was built with, which backends can run here, memory and "
        "power mode. With a bundle, hold its networks against combinations that are known to fail.",
        epilog="The exit status is 0 also with findings, and 2 for a bundle that is damaged.",
        examples=("edgedet doctor", "edgedet doctor femto", "edgedet doctor femto --json doctor.json"),
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="?", help="a bundle whose networks are examined")
    add_json(parser, "everything")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints; a missing backend is a finding, not a failure."""
    facts, machine, jetson = read_installation(), read_machine(), board.identify()
    findings = [*installation_findings(facts), *machine_findings(machine, jetson)]
    report: dict[str, Any] = {"installation": facts, "machine": machine.to_json()}
    if jetson is not None:
        report["board"] = asdict(jetson)
    if arguments.bundle is not None:
        report["bundle"], more = examine(arguments.bundle, facts["backends"])
        findings += more
    report["findings"] = [finding.to_json() for finding in findings]
    _print_installation(facts)
    _print_machine(machine)
    if jetson is not None:
        _print_board(jetson)
    if arguments.bundle is not None:
        _print_bundle(report["bundle"])
    _print_findings(findings)
    if arguments.json is not None:
        arguments.json.write(report)
    return 0


def _print_installation(facts: Mapping[str, Any]) -> None:
    print(f"edgedet      {facts['edgedet']}")
    print(f"python       {facts['python']} ({facts['executable']})")
    print(f"system       {facts['system']}")
    for package, version in facts["packages"].items():
        print(f"{package:<12} {version or 'not installed; run: pip install ' + package}")

    print("\ncompiled module")
    for key, value in facts["build"].items():
        print(f"  {key:<10} {value}")

    print("\nbackends, in the order 'auto' tries them")
    for backend in facts["backends"]:
        print(f"  {backend['name']:<10} {'ready' if backend['available'] else 'not here'}: {backend['detail']}")

    print("\nCUDA devices")
    for device in facts["cuda"]["devices"]:
        major, minor = device["compute_capability"]
        kind = "integrated, " if device["integrated"] else ""
        about = f"{device['name']}, {kind}compute capability {major}.{minor}"
        free, total = (device[key] / 2**30 for key in ("free_bytes", "total_bytes"))
        print(f"  {device['index']:<10} {about}, {free:.1f} of {total:.1f} GiB free")
    if not facts["cuda"]["devices"]:
        print(f"  none: {facts['cuda']['reason']}")

    print("\noptional")
    for entry in facts["optional"]:
        version, more = entry["version"], "" if entry["version"] else f"; {entry['remedy']}"
        print(f"  {entry['package']:<12} {version or 'not installed'} ({entry['purpose']}{more})")


def _print_machine(machine: Machine) -> None:
    available, memory, swap, limit = (
        "not available" if value is None else f"{value / 2**30:.1f} GiB"
        for value in (machine.available_bytes, machine.memory_bytes, machine.swap_bytes, machine.limit_bytes)
    )
    print("\nmachine")
    print(f"  memory     {memory}, {available} of it free")
    print(f"  swap       {swap}")
    print(f"  limit      {limit if machine.limit_bytes is not None else 'none of a container'}")
    print(f"  governor   {machine.governor or 'not available'}")


def _print_board(jetson: board.Board) -> None:
    chip = f" ({jetson.chip})" if jetson.chip else ""
    jetpack = f"JetPack {jetson.jetpack}" if jetson.jetpack else "unknown JetPack"
    print("\nboard")
    print(f"  model      {jetson.model}{chip}")
    print(f"  system     {jetpack}, Jetson Linux {jetson.l4t or 'unknown'}")
    print(f"  TensorRT   {jetson.tensorrt or 'not installed'}")
    print(f"  swap       {jetson.swap / 2**30:.1f} GiB on storage, {jetson.zram / 2**30:.1f} GiB of zram")
    print(f"  power mode {jetson.power_mode or 'unknown'}")


def _print_bundle(bundle: Mapping[str, Any]) -> None:
    print(f"\n{bundle['name']} on versions of TensorRT")
    numbers = {name: str(number) for number, name in enumerate(bundle["notes"], start=1)}

    def cell(entry: Mapping[str, Sequence[str]]) -> str:
        bad, doubtful = (" ".join(numbers[name] for name in entry[key]) for key in ("refused", "warned"))
        return f"no: {bad}" if bad else f"({doubtful})" if doubtful else "ok"

    print_table(
        [
            {
                "precision": row["precision"],
                "file": row["file"],
                **{version: cell(entry) for version, entry in row["versions"].items()},
            }
            for row in bundle["tensorrt"]
        ],
        left=("precision", "file"),
    )
    for name, note in bundle["notes"].items():
        print(f"  {numbers[name]}  {note['symptom']}\n     {note['remedy']}\n     {note['sources'][0]}")


def _print_findings(findings: Sequence[Finding]) -> None:
    print("\nfindings")
    for finding in findings:
        print(f"  {finding.text}\n    {finding.remedy}")
        if finding.sources:
            print(f"    {finding.sources[0]}")
    if not findings:
        print("  none")
