"""The parts and who may import whom, read from the sources: Python imports with ast, C++ includes line by line."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGES = {
    "edgedet": ROOT / "python" / "edgedet",
    "training": ROOT / "python" / "training",
    "calibration": ROOT / "calibration",
}

# What a package never imports, at any depth of nesting and inside functions too.
FORBIDDEN = {
    "edgedet": ("torch", "torchvision", "cv2", "onnx", "onnxruntime", "scipy", "training", "calibration", "benchmarks"),
    "training": ("calibration", "benchmarks"),
    "calibration": ("benchmarks",),
}
# What calibration may know of training.
CALIBRATION_MAY_IMPORT = ("training.export", "training.qat")
# Floors of training: what is not named is on floor 2. A module imports from its own folder and from lower floors.
FLOORS = {"boxes": 0, "losses": 1, "models": 1, "data": 1, "distillation": 1, "cli": 3, "__main__": 3}
OUTPUTS = "training.models.outputs"

# What each folder of csrc may include, beside itself. A name is a folder or one header. Beyond the public API the
# bindings run the kernels, for which they need a pool of threads, and the benchmark reads numbers and COCO annotations
# and writes COCO results.
MAY_INCLUDE = {
    "include": (),
    "common": ("include",),
    "kernels": ("include", "common"),
    "frame": ("include", "common", "kernels"),
    "measure": ("include", "common"),
    "runtime": ("include", "common"),
    "backends/openvino": ("include", "common", "kernels", "runtime"),
    "backends/tensorrt": ("include", "common", "kernels", "frame", "runtime"),
    "bindings": (
        "include",
        "common/thread_pool.h",
        "common/validate.h",
        "kernels/ops.h",
        "kernels/geometry.h",
        "frame/device.h",
        "frame/frame_path.h",
        "frame/operators.h",
    ),
    "c_api": ("include",),
    "benchmark": ("include", "common/decimal.h", "common/json.h", "common/json_text.h"),
}
# The explicit table is the one place in runtime that names the backends.
BACKEND_TABLE = "runtime/backends.cpp"
# Third-party headers and the only folders that may see them.
CONFINED = {
    r"NvInfer|NvOnnxParser": ("backends/tensorrt",),
    r"openvino/": ("backends/openvino",),
    r"pybind11/": ("bindings",),
    r"cuda|cub/|thrust/": ("common", "kernels", "frame", "backends/tensorrt"),
}


def module_name(path: Path, package: str) -> str:
    parts = [package, *path.relative_to(PACKAGES[package]).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, *, is_package: bool, nested: bool = True) -> set[str]:
    """Absolute dotted names that a module imports; `from a.b import c` yields a.b.c, which may be a module or a name.

    nested: also imports inside functions; those under `if TYPE_CHECKING` are always left out, for they load nothing.
    """
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not nested:
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parent = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return names


def within(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def floor_of(module: str) -> int:
    """0 for boxes; 1 for what is built on it; 2 for recipes, loop, export and the like; 3 for the command line."""
    return FLOORS.get(module.split(".")[1], 2)


def training_violation(module: str, imported: str) -> str:
    """Why `module` of training may not import `imported`, or an empty string."""
    if imported.split(".")[0] != "training" or imported == "training":
        return ""
    source, target = module.split(".")[1], imported.split(".")[1]
    if source == target:
        return ""
    if source == "distillation" and target == "models" and not within(imported, [OUTPUTS]):
        return "distillation knows tensors and the outputs dataclass, no model class"
    if floor_of(imported) > floor_of(module):
        return "a lower floor knows nothing of a higher one"
    if floor_of(imported) == floor_of(module) == 1 and not within(imported, [OUTPUTS]):
        return "losses, models, data and distillation share nothing but boxes and the outputs dataclass"
    return ""


def python_violations(package: str, module: str, imports: Iterable[str]) -> list[str]:
    found = []
    for name in sorted(imports):
        if within(name, FORBIDDEN[package]):
            found.append(f"{module} imports {name}: {package} never imports {name.split('.')[0]}")
        elif package == "calibration" and within(name, ["training"]) and not within(name, CALIBRATION_MAY_IMPORT):
            found.append(f"{module} imports {name}: of training, calibration knows export and QAT only")
        elif package == "training" and "." in module and (reason := training_violation(module, name)):
            found.append(f"{module} imports {name}: {reason}")
    return found


def python_files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_python_import_directions(package: str) -> None:
    files = python_files(package)
    assert files, f"no sources in {PACKAGES[package]}"
    found = []
    for path in files:
        module = module_name(path, package)
        imports = imported_modules(path.read_text(), module, is_package=path.name == "__init__.py")
        found += python_violations(package, module, imports)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "module", "source", "reason"),
    [
        ("edgedet", "edgedet.cli", "def run():\n    import torch.nn", "never imports torch"),
        ("edgedet", "edgedet.cli", "from cv2 import resize", "never imports cv2"),
        ("training", "training.loop", "from calibration.observers import MinMax", "never imports calibration"),
        ("training", "training.boxes", "from .losses import criterion", "a lower floor"),
        ("training", "training.models.decoder", "from ..losses.criterion import Criterion", "share nothing"),
        ("training", "training.losses.criterion", "from training.cli import main", "a lower floor"),
        ("training", "training.distillation.logits", "from training.models.detector import build", "no model class"),
        ("calibration", "calibration.verify", "from training.loop import train", "export and QAT only"),
    ],
)
def test_a_forbidden_import_is_found(package: str, module: str, source: str, reason: str) -> None:
    found = python_violations(package, module, imported_modules(source, module, is_package=False))
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("package", "module", "source"),
    [
        ("training", "training.losses.criterion", "from training.models.outputs import DetectorOutput"),
        ("training", "training.distillation.logits", "from ..models.outputs import Prediction"),
        ("training", "training.cli", "from training.loop import train"),
        ("calibration", "calibration.qat", "from training.export import export_onnx"),
        ("edgedet", "edgedet.bundle", "from __future__ import annotations\nimport numpy as np\nfrom ._core import x"),
        ("edgedet", "edgedet.detector", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_an_allowed_import_passes(package: str, module: str, source: str) -> None:
    assert python_violations(package, module, imported_modules(source, module, is_package=False)) == []


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Import circles of a module graph, each as the path that closes it."""
    found: list[list[str]] = []
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> None:
        state[node] = 1
        for target in sorted(graph[node]):
            if state.get(target) == 1:
                found.append([*path[path.index(target) :], target])
            elif target not in state:
                visit(target, [*path, target])
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            visit(node, [node])
    return found


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_import_circles() -> None:
    """Modules that import each other while they load. A package's __init__ may gather its own modules."""
    graph: dict[str, set[str]] = {}
    for package in PACKAGES:
        modules = {module_name(path, package): path for path in python_files(package)}
        compiled = {module_name(path, package) for path in PACKAGES[package].rglob("*.pyi")}
        for module, path in modules.items():
            is_package = path.name == "__init__.py"
            targets = set()
            for name in imported_modules(path.read_text(), module, is_package=is_package, nested=False):
                target = name if name in modules or name in compiled else name.rpartition(".")[0]
                if target in modules and target != module:
                    targets.add(target)
            graph[module] = targets
    assert not (found := cycles(graph)), "\n".join(" -> ".join(circle) for circle in found)


def test_types_that_python_38_cannot_subscript_are_for_the_type_checker_only() -> None:
    """`Progress = Callable[[int], None]` fails there when the module is loaded, which no type checker says."""
    found = []
    for path in python_files("edgedet"):
        tree = ast.parse(path.read_text())
        generic = {"dict", "frozenset", "list", "set", "tuple", "type"}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("collections", "concurrent")):
                generic |= {alias.asname or alias.name for alias in node.names}
        values = [statement.value for statement in tree.body if isinstance(statement, ast.Assign)]
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            for node in itertools.chain.from_iterable(map(ast.walk, values))
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in generic
        ]
    assert not found, "\n".join(found)


def test_import_edgedet_is_light() -> None:
    script = (
        "import sys, edgedet; "
        "print(*sorted({'torch', 'cv2', 'onnx', 'onnxruntime', 'openvino', 'PIL', 'pycocotools'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def cpp_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"})


def cpp_folder(relative: str) -> str:
    parts = relative.split("/")
    return "/".join(parts[:2]) if parts[0] == "backends" else parts[0]


def cpp_includes(text: str) -> list[str]:
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', text, flags=re.MULTILINE)


def resolve_include(include: str, relative: str) -> str | None:
    """Path below csrc of one of our own headers, or None for a foreign one."""
    for folder in (CSRC, CSRC / "include", (CSRC / relative).parent):
        candidate = (folder / include).resolve()
        if candidate.is_file() and candidate.is_relative_to(CSRC):
            return candidate.relative_to(CSRC).as_posix()
    return None


def cpp_violations(relative: str, includes: Iterable[str]) -> list[str]:
    folder = cpp_folder(relative)
    found = []
    for include in includes:
        target = resolve_include(include, relative)
        if target is None:
            for pattern, places in CONFINED.items():
                if re.match(pattern, include) and not any(relative == p or folder == p for p in places):
                    found.append(f"csrc/{relative} includes <{include}>: only for {', '.join(places)}")
        elif relative == BACKEND_TABLE and target.startswith("backends/"):
            continue
        elif cpp_folder(target) != folder and not {target, cpp_folder(target)} & set(MAY_INCLUDE[folder]):
            found.append(f"csrc/{relative} includes {target}: {folder} may see {', '.join(MAY_INCLUDE[folder])} only")
    return found


def test_cpp_include_directions() -> None:
    files = cpp_files()
    assert files
    found = []
    for path in files:
        relative = path.relative_to(CSRC).as_posix()
        assert cpp_folder(relative) in MAY_INCLUDE, f"csrc/{relative}: a folder that the design does not name"
        found += cpp_violations(relative, cpp_includes(path.read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("relative", "include"),
    [
        ("include/edgedet/types.h", "cuda_runtime.h"),
        ("include/edgedet/types.h", "kernels/ops.h"),
        ("kernels/decode_cpu.cpp", "openvino/openvino.hpp"),
        ("runtime/detector.cpp", "kernels/ops.h"),
        ("runtime/detector.cpp", "NvInfer.h"),
        ("bindings/module.cpp", "openvino/openvino.hpp"),
        ("bindings/cuda.cpp", "cuda_runtime_api.h"),
        ("bindings/cuda.cpp", "kernels/preprocess_cuda.h"),
        ("benchmark/main.cpp", "kernels/ops.h"),
        ("benchmark/main.cpp", "pybind11/pybind11.h"),
        ("backends/openvino/backend.cpp", "NvInfer.h"),
    ],
)
def test_a_forbidden_include_is_found(relative: str, include: str) -> None:
    found = cpp_violations(relative, cpp_includes(f'// text\n  # include "{include}"\n'))
    assert len(found) == 1
    assert include in found[0]


PUBLIC_HEADERS = sorted((CSRC / "include" / "edgedet").glob("*.h"))


@pytest.mark.parametrize("header", PUBLIC_HEADERS, ids=lambda path: path.name)
def test_public_headers_stay_small_and_plain(header: Path) -> None:
    text = header.read_text()
    assert len(text.splitlines()) <= 150
    for_c = header.name == "c_api.h"
    conditions = re.findall(r"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|elif|else)\b.*$", text, flags=re.MULTILINE)
    assert set(conditions) <= ({"#ifdef __cplusplus"} if for_c else set())
    for include in cpp_includes(text):
        standard = re.fullmatch(r"[a-z]+\.h" if for_c else r"[a-z_]+", include)
        assert standard or (include.startswith("edgedet/") and not for_c), f"{header.name}: {include}"


def test_public_headers_exist() -> None:
    assert {path.name for path in PUBLIC_HEADERS} >= {"error.h", "types.h", "detector.h"}
