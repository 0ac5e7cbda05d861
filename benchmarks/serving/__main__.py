"""``edgedet serve`` under load on this machine, client included.

    python -m benchmarks.serving BUNDLE [--images FOLDER]

Writes benchmarks/results/serving.json: throughput beside that of the same detector without a server (by turns, so that
a slow moment meets both), latency at 80 % of it, twice as much load as it can take, memory over many requests, and what
became of requests under way when the server was told to stop and when its worker was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from PIL import Image

import edgedet
from benchmarks.serving.client import LOST, Load, closed_loop, open_loop, request
from benchmarks.serving.direct import Direct, Frame, direct
from benchmarks.serving.server import Server, running
from edgedet.cli.bench import synthetic_frame
from edgedet.images import find_images

#: p99 at 80 % load, in times of one frame. Requests come at random (Poisson) to one server that takes a constant time
#: each: 99 % of them are through in 11 of those (M/D/1 at 0.8); the rest is for what a real machine does besides.
P99_BOUND = 15
_RESULTS = Path(__file__).resolve().parent.parent / "results"


def jpeg() -> bytes:
    """640x480, quality 90."""
    file = io.BytesIO()
    Image.fromarray(synthetic_frame(640, 480)).save(file, "JPEG", quality=90)
    return file.getvalue()


def run(work: Coroutine[Any, Any, Load]) -> Load:
    """Runs a client on the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def bench_fps(bundle: Path, *, mode: str, batch: int, frames: int) -> float:
    """What `edgedet bench` says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [sys.executable, "-m", "edgedet", "bench", str(bundle), "--mode", mode, "--batch", str(batch)]
        subprocess.run(
            [*command, "--frames", str(max(10, frames // batch)), "--json", str(file)], check=True, capture_output=True
        )
        fps: float = json.loads(file.read_text())["fps"]
        return fps


def compare(server: Server, other: Direct, requests: list[bytes], frames: list[Frame], given: Any) -> dict[str, Any]:
    """Throughput with and without the server, by turns."""
    served, bare = [], []
    run(closed_loop(server.address, requests, connections=given.connections, count=given.connections * 5))
    other.rate(frames, threads=given.connections, count=given.connections * 5)
    for _ in range(given.rounds):
        load = run(closed_loop(server.address, requests, connections=given.connections, count=given.count))
        assert load.statuses == {200: given.count}, load.statuses
        served.append(load.rate)
        bare.append(other.rate(frames, threads=given.connections, count=given.count))
    ratios = [one / two for one, two in zip(served, bare, strict=True)]
    return {
        "served_per_second": statistics.median(served),
        "detector_per_second": statistics.median(bare),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def memory(server: Server, requests: list[bytes], given: Any) -> dict[str, Any]:
    """MiB of both processes after each tenth of many requests."""
    part = max(1, given.many // 10)
    megabytes = [server.rss_mb()]
    for _ in range(10):
        load = run(closed_loop(server.address, requests, connections=given.connections, count=part))
        assert load.statuses == {200: part}, load.statuses
        megabytes.append(server.rss_mb())
    return {"requests": part * 10, "rss_mb": megabytes, "growth_after_first_tenth_mb": megabytes[-1] - megabytes[1]}


def stopped(server: Server, requests: list[bytes], connections: int) -> dict[str, Any]:
    """SIGTERM in the middle of a load. Requests on a connection that was refused were never sent."""
    load = Load()
    loads = asyncio_pair(
        closed_loop(server.address, requests, connections=connections, count=10**9, load=load),
        load,
        lambda: server.process.send_signal(signal.SIGTERM),
    )
    code = server.process.wait(60)
    told = server.wait_for("stopped")
    return {"statuses": counts(loads), "exit": code, "accepted": told["accepted"], "answered": told["answered"]}


def killed(server: Server, requests: list[bytes], connections: int, count: int) -> dict[str, Any]:
    """SIGKILL of the worker in the middle of a load."""
    load = Load()
    work = closed_loop(server.address, requests, connections=connections, count=count, load=load)
    return {"statuses": counts(asyncio_pair(work, load, lambda: os.kill(server.worker(), signal.SIGKILL)))}


def asyncio_pair(work: Coroutine[Any, Any, Load], load: Load, strike: Any) -> Load:
    """Runs a load and strikes once it is well under way."""

    async def both() -> Load:
        task = asyncio.ensure_future(work)
        while load.statuses[200] < 100 and not task.done():
            await asyncio.sleep(0.01)
        strike()
        return await task

    return run(both())


def counts(load: Load) -> dict[str, int]:
    """Statuses by name; what had no answer is "lost"."""
    return {"lost" if status == LOST else str(status): number for status, number in sorted(load.statuses.items())}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, help="JPEG files to send (default: one synthetic frame)")
    parser.add_argument("--mode", choices=["latency", "throughput"], default="throughput")
    parser.add_argument("--connections", type=int, default=4, help="concurrency of the throughput runs (default: 4)")
    parser.add_argument("--count", type=int, default=400, help="requests of a run (default: 400)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of server and detector (default: 5)")
    parser.add_argument(
        "--many", type=int, default=20_000, help="requests over which memory is watched (default: 20000)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of the runs at a rate (default: 20)")
    parser.add_argument("--out", type=Path, default=_RESULTS / "serving.json")
    given = parser.parse_args()

    files = [file.read_bytes() for file in find_images(given.images)[:64]] if given.images else [jpeg()]
    pixels = synthetic_frame(640, 480).tobytes()
    jpegs = [request(file, "image/jpeg") for file in files]
    raw = [request(pixels, "application/octet-stream", "?width=640&height=480")]
    load_before = os.getloadavg()[0]

    with running(given.bundle, "--mode", given.mode) as server:
        with direct(given.bundle, mode=given.mode) as other:
            by_kind = {
                "jpeg": compare(server, other, jpegs, [(file, None) for file in files], given),
                "raw": compare(server, other, raw, [(pixels, (480, 640))], given),
            }
        by_kind["raw"]["bench_per_second"] = bench_fps(
            given.bundle, mode=given.mode, batch=given.connections, frames=given.count
        )
        by_kind["raw"]["ratio_to_bench"] = by_kind["raw"]["served_per_second"] / by_kind["raw"]["bench_per_second"]
        capacity = by_kind["jpeg"]["served_per_second"]
        at_80 = run(open_loop(server.address, jpegs, rate=0.8 * capacity, seconds=given.seconds, connections=256))
        twice = run(open_loop(server.address, jpegs, rate=2 * capacity, seconds=given.seconds, connections=512))
        flat = memory(server, jpegs, given)
        lost_worker = killed(server, jpegs, given.connections, given.count)
        stop = stopped(server, jpegs, given.connections)

    frame_ms = 1e3 / capacity
    report = {
        "command": " ".join(["python -m benchmarks.serving", *sys.argv[1:]]),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "load_before": load_before,
        },
        "versions": {"edgedet": edgedet.__version__, "python": platform.python_version()},
        "mode": given.mode,
        "connections": given.connections,
        "throughput": by_kind,
        "at_80_percent": {
            "rate_per_second": 0.8 * capacity,
            "p50_ms": at_80.percentile(50),
            "p90_ms": at_80.percentile(90),
            "p99_ms": at_80.percentile(99),
            "bound_ms": P99_BOUND * frame_ms,
            "within_bound": at_80.percentile(99) <= P99_BOUND * frame_ms,
            "statuses": counts(at_80),
        },
        "at_200_percent": {
            "rate_per_second": 2 * capacity,
            "answered_per_second": twice.rate,
            "p99_ms": twice.percentile(99),
            "statuses": counts(twice),
        },
        "memory": flat,
        "sigterm": stop,
        "killed_worker": lost_worker,
    }
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
