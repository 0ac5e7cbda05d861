"""Registers, spills, shared memory and size of every kernel on every architecture, as a Markdown table."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"Function properties for (\S+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_NAME = re.compile(r"kernel\d+([A-Z][A-Za-z]*Kernel)(I.*)?EE+vT_$")
_WIDTH = re.compile(r"Li(\d+)E")
_TYPES = {"f": "float32", "t": "float16", "a": "int8"}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of a multiprocessor. Spills and stack in bytes a thread."""

    kernel: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


def readable(mangled: str) -> str:
    """`Kernel float32, ...` of the mangled name of run_body<Kernel<...>>."""
    match = _NAME.search(mangled)
    if match is None:
        return mangled
    name, arguments = match[1], match[2] or ""
    if not arguments:
        return name
    words = [_TYPES[arguments[1]]]
    if "Head" in arguments:
        words.append("logits" if "LogitHead" in arguments else "scored")
    if "Lb" in arguments:
        words.append("packed" if "Lb1E" in arguments else "one by one")
    if width := _WIDTH.search(arguments):
        words.append(f"{width[1]} at a time")
    return f"{name} {', '.join(words)}"


def parse(log: str) -> list[Usage]:
    """The usage of every kernel in the output of `nvcc -Xptxas -v`."""
    found = []
    kernel, spills = "", (0, 0, 0)
    for line in log.splitlines():
        if match := _FUNCTION.search(line):
            kernel, spills = readable(match[1]), (0, 0, 0)
        elif match := _SPILLS.search(line):
            spills = (int(match[1]), int(match[2]), int(match[3]))
        elif (match := _USED.search(line)) and kernel:
            found.append(Usage(kernel, int(match[1]), *spills))
            kernel = ""
    return found


def compile_kernels(nvcc: str, source: Path, architecture: str, include: list[Path]) -> tuple[list[Usage], int]:
    """Usage of the kernels in `source`, and the bytes of their machine code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [nvcc, "-std=c++17", "-O3", "--fmad=false", f"-arch=sm_{architecture}", "-Xptxas", "-v"]
        command += [f"-I{path}" for path in include]
        run = subprocess.run(
            [*command, "-cubin", "-o", str(cubin), str(source)], capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            raise SystemExit(f"{' '.join(command)} {source} failed:\n{run.stderr}")
        return parse(run.stderr), cubin.stat().st_size


def table(usage: dict[str, list[Usage]], sizes: dict[str, int]) -> str:
    """One row a kernel, one column an architecture: registers, then spilled bytes (stores / loads) if there are any."""
    architectures = list(usage)
    kernels = sorted({entry.kernel for entries in usage.values() for entry in entries})
    by_kernel = {arch: {entry.kernel: entry for entry in entries} for arch, entries in usage.items()}

    def cell(entry: Usage | None) -> str:
        if entry is None:
            return "-"
        spilled = f" ({entry.spill_stores}/{entry.spill_loads})" if entry.spill_stores or entry.spill_loads else ""
        return f"{entry.registers}{spilled}"

    lines = [
        "| registers a thread (spilled bytes) | " + " | ".join(f"sm_{arch}" for arch in architectures) + " |",
        "|---" * (len(architectures) + 1) + "|",
    ]
    lines += [
        f"| {kernel} | " + " | ".join(cell(by_kernel[arch].get(kernel)) for arch in architectures) + " |"
        for kernel in kernels
    ]
    lines.append("| machine code, kB | " + " | ".join(f"{sizes[arch] / 1000:.0f}" for arch in architectures) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Compiles, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--architectures", nargs="+", required=True, help="75 80 ...")
    parser.add_argument("--include", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("sources", nargs="+", type=Path)
    options = parser.parse_args(argv)
    usage: dict[str, list[Usage]] = {}
    sizes: dict[str, int] = {}
    for architecture in options.architectures:
        print(f"sm_{architecture} ...", file=sys.stderr)
        parts = [compile_kernels(options.nvcc, source, architecture, options.include) for source in options.sources]
        usage[architecture] = [entry for part, _ in parts for entry in part]
        sizes[architecture] = sum(size for _, size in parts)
    text = table(usage, sizes)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
