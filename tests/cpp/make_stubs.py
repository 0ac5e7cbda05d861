"""Writes classes that implement TensorRT's virtual interfaces by aborting, from the headers that are installed here.

    make_stubs.py HEADER STUBS CLASS...

A stand-in derives from them and overrides what the test needs. ``VBuilder`` becomes ``BuilderStubs``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def stubs(text: str, name: str) -> str:
    """The class that overrides every pure virtual function of class ``name``."""
    body = re.search(rf"^class {name}\b.*?^\}};", text, re.DOTALL | re.MULTILINE)
    if body is None:
        raise SystemExit(f"expected class {name} in the header, found none")
    functions = re.findall(r"\bvirtual\s+([^;{]*?)\s*=\s*0\s*;", body[0])
    lines = [f"  {' '.join(function.split())} override {{ std::abort(); }}" for function in functions]
    head = f"class {name.removeprefix('V')}Stubs : public nvinfer1::apiv::{name} {{"
    return "\n".join([head, " public:", *lines, "};"])


def main() -> None:
    header, target, *names = sys.argv[1:]
    text = re.sub(r"//[^\n]*", "", Path(header).read_text(encoding="utf-8"))
    parts = ["#include <cstdlib>", "#include <NvInfer.h>", "using namespace nvinfer1;"]
    Path(target).write_text("\n\n".join([*parts, *(stubs(text, name) for name in names)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
