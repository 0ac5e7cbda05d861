"""edgedet-bench: the images it reads, the detections it writes and the figures it prints."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray
from PIL import Image

import edgedet
from edgedet.cli import main

ROOT = Path(__file__).resolve().parent.parent

# Pillow refuses these for metadata beside the pixels, which libpng skips.
READ_ALL_THE_SAME = {
    "python-pillow__Tests__images__png_decompression_dos.png",  # a text chunk that inflates to 2 GB
    "python-pillow__Tests__images__unknown_compression_method.png",  # of a text chunk
}


def find_program(name: str) -> str:
    """Beside the interpreter (pip install), on the PATH, or the newest for this machine in EDGEDET_BUILD or build/."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None or "EDGEDET_BUILD" in os.environ:
        builds = Path(os.environ.get("EDGEDET_BUILD", ROOT / "build"))
        programs = [path for path in builds.rglob(name) if path.is_file() and os.access(path, os.X_OK)]
        programs = [path for path in programs if not str(path.relative_to(builds)).startswith("aarch64")]
        found = str(max(programs, key=lambda path: path.stat().st_mtime)) if programs else found
    if found is None:
        pytest.skip(f"{name} is not built (make build, or name its build folder in EDGEDET_BUILD)")
    return found


def run(*arguments: str | Path, program: str = "edgedet-bench") -> subprocess.CompletedProcess[str]:
    command = [find_program(program), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def fails(*arguments: str | Path) -> str:
    """The message of a run that must fail."""
    done = run(*arguments)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def read(*paths: Path) -> list[str]:
    done = run(*paths, program="edgedet_read_images")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    return lines


def described(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]} {pixels.shape[0]} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


@pytest.fixture
def bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(tiny_onnx.CLASSES))
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    assert main(["import", str(model), "--labels", str(labels), "--out", str(tmp_path / "bundle")]) == 0
    capsys.readouterr()
    return tmp_path / "bundle"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate([(80, 48), (33, 57), (64, 64)]):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height))
        picture.save(folder / f"{index}.ppm")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_odd_image_is_read_as_pillow_does_or_refused(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".ppm"))
    assert len(paths) > 300
    lines = read(*paths)
    if any("was built without" in line for line in lines):
        pytest.skip("edgedet-bench was built without JPEG or PNG")
    wrong = []
    for path, line in zip(paths, lines, strict=True):
        try:
            expected = described(edgedet.read_image(path))
        except edgedet.ImageError:
            expected = "error"
        if expected == "error" and path.name in READ_ALL_THE_SAME:
            continue
        if expected != line and not (expected == "error" and line.startswith("error: ")):
            wrong.append(f"{path.name}: expected {expected}, got {line}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    (line,) = read(path)
    if "was built without" in line:
        pytest.skip(line)
    assert line == described(edgedet.read_image(path))


@pytest.mark.parametrize(
    "tail", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12"]
)
def test_damaged_exif_is_ignored(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (4, 3)).save(path)
    jpeg = path.read_bytes()
    block = b"Exif\0\0" + tail
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:])
    (line,) = read(path)
    if "was built without" in line:
        pytest.skip(line)
    assert line.startswith("4 3 ")


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a JPEG, PNG or binary PPM"),
        (b"GIF89a", "expected a JPEG, PNG or binary PPM"),
        (b"P6", "damaged PPM header"),
        (b"P6 2 2 65535\n", "maximum 65535"),
        (b"P6 2 2 255\n" + bytes(11), "truncated"),
        (b"P6 0 2 255\n", "limits"),
        (b"P6 99999 99999 255\n", "limits"),
        (b"P6 999999999999 2 255\n", "PPM"),
        (huge_png(60000, 60000), "limits|without PNG"),
        (huge_png(2_000_000, 1), "limits|Invalid IHDR|without PNG"),
    ],
    ids=range(10),
)
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    (line,) = read(path)
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_ppm_with_comments(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    path = tmp_path / "image.ppm"
    path.write_bytes(b"P6\n# a comment\n3 2\n#another\n255\n" + pixels.tobytes())
    assert read(path) == [described(pixels)]


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert "no such file" in read(tmp_path / "none.png")[0]
    assert "expected an image file" in read(tmp_path)[0]


def test_detections_are_those_of_python(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    done = run(bundle, "--images", pictures, "--detections", tmp_path / "found.json", "--iterations", 0)
    assert (done.returncode, done.stderr) == (0, ""), done
    detector = edgedet.Detector(bundle)
    expected = []
    for index, path in enumerate(sorted(pictures.glob("*.ppm")), start=1):
        expected += detector(path).to_coco(index, detector.info.category_ids)
    assert len(expected) > 3
    assert json.loads((tmp_path / "found.json").read_text()) == expected


def test_image_ids_come_from_the_annotations(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    images = [{"id": 10 * index + 7, "file_name": f"some/folder/{index}.ppm"} for index in range(3)]
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    found = tmp_path / "found.json"
    options = ("--annotations", annotations, "--detections", found, "--iterations", 0)
    assert run(bundle, "--images", pictures, *options).returncode == 0
    assert {row["image_id"] for row in json.loads(found.read_text())} == {7, 17, 27}
    annotations.write_text(json.dumps({"images": images[:2]}))
    assert "2.ppm" in fails(bundle, "--images", pictures, *options)
    annotations.write_text('{"images": [{"id": "x", "file_name": "0.ppm"}]}')
    assert "id" in fails(bundle, "--images", pictures, *options)
    annotations.write_text("{")
    assert "instances.json" in fails(bundle, "--images", pictures, *options)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_figures(bundle: Path, tmp_path: Path, mode: str) -> None:
    done = run(
        bundle, "--synthetic", "96x64", "--iterations", 30, "--warmup", 2, "--mode", mode, "--threads", 1,
        "--json", tmp_path / "figures.json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    figures = json.loads((tmp_path / "figures.json").read_text())
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
    assert set(figures["stages_ms"]) == {"upload", "preprocess", "inference", "decode", "download"}
    assert 0 < sum(figures["stages_ms"].values()) <= latency["mean"] * 1.01
    for stage, mean in figures["stages_ms"].items():
        assert figures["stage_percentiles_ms"][stage]["mean"] == mean
    assert figures["fps"] == pytest.approx(1000 * figures["frames_per_call"] / latency["mean"])
    assert figures["frames_per_call"] == figures["requests"]
    assert figures["command"].endswith(f"--json {tmp_path / 'figures.json'}")
    assert (figures["calls"], figures["mode"], figures["frame_size"]) == (30, mode, "96x64")
    assert (figures["backend"], figures["precision"]) == ("openvino", "fp32")
    assert 5 < figures["rss_mb"] < 4000
    for word in ("preprocess", "inference", "decode", "end to end", "p50", "p99", "frames/s", "MB"):
        assert word in done.stdout


def test_help_names_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    source = (ROOT / "csrc" / "benchmark" / "arguments.cpp").read_text()
    options = set(re.findall(r'option == "(--[a-z-]+)"', source)) - {"--help"}
    assert len(options) > 10
    assert all(option in done.stdout for option in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "folder of a bundle"),
        (["none"], "none"),
        (["a", "b"], "one bundle"),
        (["a", "--nonsense", "1"], "--nonsense"),
        (["a", "--iterations"], "--iterations"),
        (["a", "--iterations", "-1"], "--iterations"),
        (["a", "--threads", "two"], "--threads"),
        (["a", "--synthetic", "640"], "WIDTHxHEIGHT"),
        (["a", "--synthetic", "0x480"], "--synthetic"),
        (["a", "--mode", "fast"], "--mode"),
        (["a", "--batch", "0"], "--batch"),
        (["a", "--score-threshold", "nan"], "--score-threshold"),
        (["a", "--detections", "x.json"], "--images"),
        (["a", "--images", "b", "--synthetic", "4x4"], "both"),
        (["a", "--json", "x.json", "--iterations", "0"], "--json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_command_lines_are_refused(arguments: list[str], message: str) -> None:
    assert message in fails(*arguments)


def test_unwritable_results_are_an_error(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "no folder" / "found.json"
    assert "cannot be written" in fails(bundle, "--images", pictures, "--detections", target, "--iterations", "0")
    assert "no image in this folder" in fails(bundle, "--images", tmp_path / "bundle")
