"""Programs beside edgedet that run the same plan: `oracle.cpp`, TensorRT's Python bindings, trtexec."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cuda_frames.tools import cuda_tool, run_tool
from benchmarks.tensorrt.record import NotMeasured

SOURCE = Path(__file__).with_name("oracle.cpp")
_COMPILE_SECONDS = 120.0
_RUN_SECONDS = 60.0


def package(name: str) -> Any:
    """A module of a package that may be missing.

    Raises:
        NotMeasured: it is.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise NotMeasured(f"{name} is not installed")
    return importlib.import_module(name)


def tensorrt_folders(kind: str) -> list[Path]:
    """Where headers ("include") or libraries ("lib") of TensorRT are: TensorRT_ROOT, then what the loader is told."""
    roots = [Path(root) for name in ("TensorRT_ROOT", "TENSORRT_ROOT") if (root := os.environ.get(name))]
    found = [folder for root in roots for folder in (root / kind, root) if folder.is_dir()]
    if kind == "lib":
        found += [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    return found


def compile_oracle(folder: Path) -> Path:
    """The program of oracle.cpp, compiled once.

    Raises:
        NotMeasured: something that it takes is not here.
    """
    program = folder / "oracle"
    if program.is_file():
        return program
    compiler = shutil.which("c++") or shutil.which("g++")
    nvcc = cuda_tool("nvcc")
    if compiler is None or nvcc is None:
        raise NotMeasured("no C++ compiler" if compiler is None else "no nvcc, beside which CUDA's headers are")
    headers = next((path for path in tensorrt_folders("include") if (path / "NvInfer.h").is_file()), None)
    libraries = [file for path in tensorrt_folders("lib") for file in sorted(path.glob("libnvinfer.so.*"))]
    if not libraries:
        raise NotMeasured("no libnvinfer.so.* in TensorRT_ROOT or LD_LIBRARY_PATH")
    cuda = Path(nvcc).resolve().parents[1]
    links = [str(path) for name in ("lib64", "lib", "targets/x86_64-linux/lib") if (path := cuda / name).is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=c++17", "-O2", "-Wno-deprecated-declarations", str(SOURCE), "-o", str(program)]
    command += [f"-I{headers}"] if headers is not None else []
    command += [f"-I{cuda / 'include'}", *(f"-L{path}" for path in links), str(libraries[0])]
    # TensorRT 8 names functions of cuBLAS and cuDNN that are never called.
    command += ["-lcudart", f"-Wl,-rpath,{libraries[0].parent}", "-Wl,--unresolved-symbols=ignore-in-shared-libs"]
    outcome = run_tool(command, _COMPILE_SECONDS)
    if outcome.status != 0:
        lines = [line for line in outcome.output.splitlines() if "error" in line] or outcome.output.splitlines()[-1:]
        raise NotMeasured(f"oracle.cpp does not compile here: {' '.join(lines[:1])}")
    return program


@dataclass(frozen=True)
class Ran:
    """outputs: by name. milliseconds: of replays of the network alone."""

    outputs: dict[str, NDArray[Any]]
    milliseconds: list[float]


def run_oracle(program: Path, plan: Path, feed: Mapping[str, NDArray[Any]], folder: Path, *, calls: int) -> Ran:
    """Runs a plan on inputs (N, ...) of the plan's types.

    Raises:
        RuntimeError: the program fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, values in feed.items():
        np.ascontiguousarray(values).tofile(folder / f"{name}.bin")
    batch = len(next(iter(feed.values())))
    outcome = run_tool([str(program), str(plan), str(batch), str(folder), str(calls)], _RUN_SECONDS)
    if outcome.status != 0:
        raise RuntimeError(f"the oracle ended with status {outcome.status}: {outcome.output.strip()[-300:]}")
    return parse_oracle(outcome.output, folder)


def parse_oracle(output: str, folder: Path) -> Ran:
    """What the program printed and wrote."""
    outputs: dict[str, NDArray[Any]] = {}
    times: list[float] = []
    for line in output.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "milliseconds":
            times.append(float(words[1]))
        elif len(words) >= 3 and words[1] in ("float32", "float16", "int32", "int64"):
            shape = [int(word) for word in words[2:]]
            outputs[words[0]] = np.fromfile(folder / f"{words[0]}.out", np.dtype(words[1])).reshape(shape)
    return Ran(outputs, times)


class PythonEngine:
    """A plan in TensorRT's Python bindings, with torch tensors as device memory: they do what pycuda's would.

    Raises:
        NotMeasured: the bindings or a torch with CUDA are missing.
        RuntimeError: the plan is refused.
    """

    def __init__(self, plan: Path, batch: int, *, device: str = "cuda") -> None:
        trt, torch = package("tensorrt"), package("torch")
        if device == "cuda" and not torch.cuda.is_available():
            raise NotMeasured(f"torch {torch.__version__} sees no CUDA device")
        self._torch, self._device = torch, device
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise RuntimeError("TensorRT's Python bindings refuse the plan")
        self._context = self._engine.create_execution_context()
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        for name in sorted(names, key=lambda name: not is_input[name]):
            shape = list(self._engine.get_tensor_shape(name))
            if is_input[name]:
                shape[0] = batch if shape[0] < 0 else shape[0]
                self._context.set_input_shape(name, tuple(shape))
            else:
                shape = list(self._context.get_tensor_shape(name))
            kind = getattr(torch, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name)
            tensor = torch.zeros(tuple(shape), dtype=kind, device=device)
            (self.inputs if is_input[name] else self.outputs)[name] = tensor
            self._context.set_tensor_address(name, tensor.data_ptr())

    def run(self) -> dict[str, Any]:
        """Queues the network on torch's current stream for what is in `inputs`, and returns `outputs`."""
        stream = self._torch.cuda.current_stream().cuda_stream if self._device == "cuda" else 0
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT's Python bindings could not queue the network")
        return self.outputs

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """From inputs on the host to outputs there."""
        for name, tensor in self.inputs.items():
            tensor.copy_(self._torch.from_numpy(np.ascontiguousarray(feed[name])))
        outputs = self.run()
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}


def find_trtexec() -> str:
    """The path of trtexec.

    Raises:
        NotMeasured: it is nowhere.
    """
    with contextlib.suppress(TypeError):
        if found := shutil.which("trtexec"):
            return found
    for root in tensorrt_folders("bin"):
        if (root / "trtexec").is_file():
            return str(root / "trtexec")
    raise NotMeasured("no trtexec on PATH or in TensorRT_ROOT/bin")


def trtexec_times(plan: Path) -> dict[str, float]:
    """Milliseconds of the engine alone, as trtexec counts them with a CUDA graph: "p50", "p99", "minimum".

    Raises:
        NotMeasured: there is no trtexec.
        RuntimeError: it fails, or says nothing of the kind.
    """
    arguments = [f"--loadEngine={plan}", "--useCudaGraph", "--noDataTransfers", "--duration=3", "--percentile=99"]
    outcome = run_tool([find_trtexec(), *arguments], _RUN_SECONDS)
    found = parse_trtexec(outcome.output)
    if outcome.status != 0 or not found:
        raise RuntimeError(f"trtexec ended with status {outcome.status}: {outcome.output.strip()[-300:]}")
    return found


def parse_trtexec(output: str) -> dict[str, float]:
    """The line "GPU Compute Time: min = 1 ms, ..., median = 2 ms, percentile(99%) = 3 ms"."""
    line = next((line for line in output.splitlines() if "GPU Compute Time: min" in line), "")
    names = {"min": "minimum", "median": "p50", r"percentile\(99%\)": "p99"}
    found = {}
    for word, name in names.items():
        if match := re.search(rf"{word} = ([\d.]+) ms", line):
            found[name] = float(match[1])
    return found
