"""The HTTP interface, in this process (the worker is a real one): answers equal Detector's, limits hold."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from starlette.types import ASGIApp

from edgedet import Detections, Detector, EngineOptions, InvalidInputError, read_image
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.serve.app import create_app
from edgedet.serve.dispatch import Dispatcher
from edgedet.serve.options import FrontOptions, WorkerOptions, read_api_keys

KEY = "0123456789abcdef-key"


def png(red: int, green: int, blue: int, *, width: int = 80, height: int = 48, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (red, green, blue)).save(file, kind)
    return file.getvalue()


ORANGE, BLUE = png(255, 128, 0), png(0, 0, 255, width=40)


def make_bundle(folder: Path, *, poison: float | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_bundle(
        folder / "bundle",
        tiny_onnx.logits_model(folder / "tiny.onnx", poison=poison),
        name=folder.name,
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )


def started(app: ASGIApp) -> Iterator[TestClient]:
    with TestClient(app) as client:
        until = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, "the worker was never ready"
            time.sleep(0.02)
        yield client


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    nan = make_bundle(tmp_path_factory.mktemp("nan") / "nan", poison=float("nan"))
    worker = WorkerOptions(
        models=(("tiny", str(bundle)), ("nan", str(nan))),
        threads=1,
        score=0.0,
        max_images=4,
        max_pixels=100_000,
        max_upload=1 << 20,
        max_batch=4,
    )
    yield from started(create_app(Dispatcher(worker, FrontOptions())))


@pytest.fixture(scope="module")
def detect(bundle: Path) -> Detector:
    return Detector(bundle, threads=1)


def check(result: dict[str, Any], expected: Detections) -> None:
    """An image of an answer, against what Detector finds: the same numbers."""
    rows = result["detections"]
    assert [row["name"] for row in rows] == expected.names
    assert [row["label"] for row in rows] == expected.labels.tolist()
    assert [row["score"] for row in rows] == expected.scores.tolist()
    assert [row["box"] for row in rows] == expected.boxes.tolist()


def test_a_file_as_the_body(client: TestClient, detect: Detector) -> None:
    expected = detect(read_image(ORANGE))
    assert len(expected) == 9
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded"):
        answer = client.post("/v1/detect", content=ORANGE, headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert document["model"] == "tiny"
        (result,) = document["results"]
        assert (result["width"], result["height"]) == (80, 48)
        check(result, expected)
        assert list(document["milliseconds"]) == ["queue", "read", "wait", "preprocess", "inference", "decode"]


def test_score_is_a_threshold(client: TestClient, detect: Detector) -> None:
    expected = detect(read_image(ORANGE)).filter(0.5)
    assert 0 < len(expected) < 9
    answer = client.post("/v1/detect?score=0.5", content=ORANGE)
    check(answer.json()["results"][0], expected)


@pytest.mark.parametrize("format", ["rgb", "bgr", "gray", "nv12"])
def test_raw_pixels(format: str, client: TestClient, detect: Detector) -> None:
    random = np.random.default_rng(1)
    shape = {"gray": (48, 80), "nv12": (72, 80)}.get(format, (48, 80, 3))
    pixels: NDArray[np.uint8] = random.integers(0, 256, shape, dtype=np.uint8)
    answer = client.post(f"/v1/detect?width=80&height=48&format={format}", content=pixels.tobytes())
    assert answer.status_code == 200, answer.text
    result = answer.json()["results"][0]
    assert (result["width"], result["height"]) == (80, 48)
    expected: Any = detect(pixels, format=format)  # type: ignore[call-overload]
    check(result, expected)


def test_a_form_of_several_files(client: TestClient, detect: Detector) -> None:
    files = [("image", ("a.png", ORANGE, "image/png")), ("image", ("b.png", BLUE, "image/png"))]
    answer = client.post("/v1/detect", files=files, data={"score": "0.25", "model": "tiny"})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["width"] for result in results] == [80, 40]
    for result, file in zip(results, (ORANGE, BLUE), strict=True):
        check(result, detect(read_image(file)).filter(0.25))


def test_base64_in_json(client: TestClient, detect: Detector) -> None:
    text = base64.b64encode(ORANGE).decode()
    one = client.post("/v1/detect", json={"image": text, "score": 0.5, "timeout_ms": 5000})
    check(one.json()["results"][0], detect(read_image(ORANGE)).filter(0.5))
    several = client.post("/v1/detect", json={"images": ["data:image/png;base64," + text, text]})
    assert len(several.json()["results"]) == 2
    for result in several.json()["results"]:
        check(result, detect(read_image(ORANGE)))


@pytest.mark.parametrize("batch", [False, True])
def test_kserve(batch: bool, client: TestClient, detect: Detector) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
    frames = pixels if batch else pixels[:1]
    shape = list(frames.shape) if batch else list(frames.shape[1:])
    body = {
        "id": "mine",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": frames.ravel().tolist()}],
        "parameters": {"score": 0.3},
    }
    answer = client.post("/v2/models/tiny/infer", json=body)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["id"], document["model_name"]) == ("mine", "tiny")
    outputs = {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in document["outputs"]}
    for place, frame in enumerate(frames):
        expected = detect(frame).filter(0.3)
        rows = int(outputs["num_detections"][place])
        assert rows == len(expected)
        np.testing.assert_array_equal(outputs["boxes"][place, :rows], expected.boxes)
        np.testing.assert_array_equal(outputs["scores"][place, :rows], expected.scores)
        np.testing.assert_array_equal(outputs["labels"][place, :rows], expected.labels)
        assert np.all(outputs["labels"][place, rows:] == -1)


def test_kserve_takes_files_and_gives_what_is_asked_for(client: TestClient, detect: Detector) -> None:
    data = [base64.b64encode(ORANGE).decode()]
    body = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}],
        "outputs": [{"name": "scores"}],
    }
    document = client.post("/v2/models/tiny/infer", json=body).json()
    (scores,) = document["outputs"]
    assert "id" not in document
    assert scores["data"] == detect(read_image(ORANGE)).scores.tolist()


def test_kserve_says_what_there_is(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "edgedet"
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    metadata = client.get("/v2/models/tiny").json()
    assert [one["name"] for one in metadata["outputs"]] == ["num_detections", "boxes", "scores", "labels"]
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert client.get("/v2/models/none").status_code == client.get("/v2/models/none/ready").status_code == 404


def test_model_cards(client: TestClient) -> None:
    card, nan = client.get("/v1/models").json()["models"]
    assert (card["name"], card["classes"], card["input"]) == (
        "tiny",
        ["red", "green", "blue"],
        {"width": 32, "height": 32},
    )
    assert (card["backend"], card["precision"]) == ("openvino", "fp32")
    assert card["verdict"]["state"] == "unverified"
    assert nan["name"] == "nan"


TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [0, 0, 0]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"inputs": []}, "one tensor"),
        ({"inputs": [{**TENSOR, "name": "x"}]}, '"image"'),
        ({"inputs": [{**TENSOR, "datatype": "FP32"}]}, "datatype"),
        ({"inputs": [{**TENSOR, "shape": [1, 1, 4]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [0, 1, 3]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [2, 1, 3]}]}, "6 whole numbers"),
        ({"inputs": [{**TENSOR, "data": [0, 0, 256]}]}, "0 to 255"),
        ({"inputs": [{**TENSOR, "data": [0, -1, 0]}]}, "0 to 255"),
        ({"inputs": [{**TENSOR, "data": [0, 0.5, 0]}]}, "whole numbers"),
        ({"inputs": [{**TENSOR, "data": [[0], 1, 2]}]}, "whole numbers"),
        ({"inputs": [{**TENSOR, "data": ["a", "b", "c"]}]}, "whole numbers"),
        ({"inputs": [{**TENSOR, "datatype": "BYTES", "shape": [1], "data": ["?"]}]}, "base64"),
        ({"outputs": [{"name": "masks"}]}, "masks"),
        ({"id": 3}, '"id"'),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": {"score": "high"}}, "score"),
    ],
)
def test_kserve_explains_what_is_wrong(change: dict[str, Any], text: str, client: TestClient) -> None:
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [TENSOR], **change})
    assert answer.status_code == 400, answer.text
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "text"),
    [
        ("", b"", "image/png", 400, "empty"),
        ("", b"no image", "image/png", 422, "not an image"),
        ("", ORANGE[:60], "image/png", 422, "damaged"),
        ("", ORANGE, "text/plain", 415, "text/plain"),
        ("?score=2", ORANGE, "image/png", 400, "score"),
        ("?score=nan", ORANGE, "image/png", 400, "score"),
        ("?model=other", ORANGE, "image/png", 404, "tiny, nan"),
        ("?model=nan", ORANGE, "image/png", 500, "NaN"),
        ("?timeout_ms=soon", ORANGE, "image/png", 400, "milliseconds"),
        ("", png(0, 0, 0, width=400, height=300), "image/png", 422, "120000 pixels"),
        ("?width=400&height=300", b"0" * 360_000, "", 413, "pixels"),
        ("?width=4&height=3", b"0" * 35, "", 400, "36 bytes"),
        ("?width=4", b"0" * 36, "", 400, "width and height"),
        ("?width=-4&height=3", b"0" * 36, "", 400, "width and height"),
        ("?width=4&height=3&format=yuv", b"0" * 36, "", 400, "yuv"),
        ("?width=3&height=3&format=nv12", b"0" * 13, "", 400, "even"),
        ("", b"x" * ((1 << 20) + 1), "image/png", 413, "1048576 bytes"),
        ("", b"{", "application/json", 400, "JSON"),
        ("", b"[]", "application/json", 400, "object"),
        ("", b'{"image": "a", "images": []}', "application/json", 400, '"image"'),
        ("", b'{"images": []}', "application/json", 400, "at least one"),
        ("", b'{"images": "a"}', "application/json", 400, "list"),
        ("", b'{"image": 1}', "application/json", 400, "base64 text"),
        ("", b'{"image": "\\u00e9"}', "application/json", 400, "base64"),
        ("", b'{"images": ["","","","",""]}', "application/json", 413, "at most 4"),
        ("", b'{"image": "", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "application/json", 400, "16 levels"),
        ("", b"--b\r\n", "multipart/form-data; boundary=b", 400, "cut off"),
        ("", b"nonsense", "multipart/form-data; boundary=b", 400, "multipart"),
        ("", b"--b--\r\n", "multipart/form-data; boundary=b", 400, "at least one"),
        ("", ORANGE, "multipart/form-data", 400, "boundary"),
    ],
)
def test_what_is_wrong_is_explained(
    path: str, content: bytes, kind: str, status: int, text: str, client: TestClient
) -> None:
    answer = client.post("/v1/detect" + path, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert client.post("/v1/detect", content=ORANGE).status_code == 200


def test_too_many_files_in_a_form(client: TestClient) -> None:
    answer = client.post("/v1/detect", files=[("image", (f"{n}.png", ORANGE)) for n in range(5)])
    assert answer.status_code == 413
    answer = client.post("/v1/detect", files=[("image", (f"{n}.png", b"")) for n in range(50)])
    assert answer.status_code == 413


def test_a_body_without_a_length(client: TestClient, detect: Detector) -> None:
    answer = client.post("/v1/detect", content=(ORANGE[at : at + 50] for at in range(0, len(ORANGE), 50)))
    check(answer.json()["results"][0], detect(read_image(ORANGE)))
    endless = (b"x" * 65536 for _ in range(64))
    assert client.post("/v1/detect", content=endless).status_code == 413


@pytest.mark.parametrize("where", ["header", "url", "json"])
def test_expired_requests_are_not_run(where: str, client: TestClient) -> None:
    before = sample(client, 'edgedet_images_total{model="tiny"}')
    body: dict[str, Any] = {"image": base64.b64encode(ORANGE).decode()}
    headers, path = {}, "/v1/detect"
    if where == "header":
        headers["X-Timeout-Ms"] = "0"
    elif where == "url":
        path += "?timeout_ms=0"
    else:
        body["timeout_ms"] = 0
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 504, answer.text
    assert sample(client, 'edgedet_images_total{model="tiny"}') == before


def sample(client: TestClient, name: str) -> float:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return float(lines.get(name, 0))


def test_metrics(client: TestClient) -> None:
    names = [
        'edgedet_images_total{model="tiny"}',
        'edgedet_stage_seconds_count{model="tiny",stage="inference"}',
        'edgedet_batch_images_sum{model="tiny"}',
        'edgedet_http_requests_total{route="/v1/detect",status="200"}',
        "edgedet_accepted_total",
        "edgedet_answered_total",
    ]
    before = [sample(client, name) for name in names]
    rejects = sample(client, 'edgedet_rejects_total{reason="image"}')
    for _ in range(3):
        assert client.post("/v1/detect", content=ORANGE).status_code == 200
    assert [sample(client, name) for name in names] == [value + 3 for value in before]
    client.post("/v1/detect", content=b"no image")
    assert sample(client, 'edgedet_rejects_total{reason="image"}') == rejects + 1
    for name in ("edgedet_queue_depth", "edgedet_in_flight", "edgedet_buffered_bytes"):
        assert sample(client, name) == 0
    assert sample(client, "edgedet_ready") == 1
    text = client.get("/metrics").text
    assert text.count("# TYPE edgedet_stage_seconds histogram") == 1


def test_openapi_and_page(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/detect", "/v1/models", "/v2/models/{name}/infer", "/healthz", "/readyz", "/metrics"} <= set(
        document["paths"]
    )
    assert "multipart/form-data" in document["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
    assert "/v1/models/{name}/swap" not in document["paths"]
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_request_keeps_its_name(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    other = client.get("/healthz", headers={"X-Request-Id": "not a name"}).headers["x-request-id"]
    assert len(other) == 16


def test_odd_images(client: TestClient, detect: Detector, shared: Path) -> None:
    """Every hostile file gets Detector's answer or a 4xx, and the next request is answered."""
    statuses = []
    for file in sorted((shared / "data" / "odd_images").glob("*.*")):
        content = file.read_bytes()
        if file.suffix == ".tsv" or len(content) > 1 << 20:
            continue
        answer = client.post("/v1/detect", content=content)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            check(answer.json()["results"][0], detect(read_image(content, max_pixels=100_000)))
        else:
            assert answer.status_code == 422, (file.name, answer.text)
    assert statuses.count(200) > 50
    assert statuses.count(422) > 5
    assert client.post("/v1/detect", content=ORANGE).status_code == 200
    assert sample(client, "edgedet_worker_restarts_total") == 0


def test_keys_and_swap(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "second")
    worker = WorkerOptions(models=(("tiny", str(bundle)),), threads=1)
    front = FrontOptions(api_keys=(KEY, "another-key-of-16"), swap_root=str(tmp_path / "second"))
    app = create_app(Dispatcher(worker, front))
    for client in started(app):
        allowed = {"Authorization": f"Bearer {KEY}"}
        for path in ("/v1/models", "/metrics", "/v2/models/tiny"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=allowed).status_code == 200
            assert client.get(path, headers={"X-API-Key": "another-key-of-16"}).status_code == 200
            assert client.get(path, headers={"X-API-Key": KEY[:-1]}).status_code == 401
        assert client.post("/v1/detect", content=ORANGE).status_code == 401
        assert client.post("/v1/detect", content=ORANGE, headers=allowed).status_code == 200
        for path in ("/healthz", "/readyz", "/"):
            assert client.get(path).status_code == 200
        swap = "/v1/models/tiny/swap"
        assert client.post(swap, json={"bundle": "bundle"}).status_code == 401
        for wrong, status in (
            ({"bundle": "../tiny"}, 404),
            ({"bundle": "/etc"}, 404),
            ({"bundle": "."}, 404),
            ({}, 400),
            ([], 400),
        ):
            assert client.post(swap, json=wrong, headers=allowed).status_code == status
        (other / "empty").mkdir()
        assert client.post(swap, json={"bundle": "bundle/empty"}, headers=allowed).status_code == 422
        answer = client.post(swap, json={"bundle": "bundle"}, headers=allowed)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "second"
        assert client.get("/v1/models", headers=allowed).json()["models"][0]["model"] == "second"
        assert client.post("/v1/detect", content=ORANGE, headers=allowed).json()["model"] == "tiny"


def test_options_are_checked(tmp_path: Path) -> None:
    options = WorkerOptions(models=(("a", "x"),), engine=EngineOptions(batch=(1, 2, 4)), cache_dir="c")
    assert WorkerOptions.from_json(json.loads(json.dumps(dataclasses.asdict(options)))) == options
    with pytest.raises(InvalidInputError, match="at least one bundle"):
        WorkerOptions(models=())
    with pytest.raises(InvalidInputError, match="NAME=BUNDLE"):
        WorkerOptions(models=(("a", "x"), ("a", "y")))
    with pytest.raises(InvalidInputError, match="max_pixels"):
        WorkerOptions(models=(("a", "x"),), max_pixels=0)
    with pytest.raises(InvalidInputError, match="timeout"):
        FrontOptions(timeout=0)
    with pytest.raises(InvalidInputError, match="API keys"):
        FrontOptions(swap_root="x")
    assert KEY not in repr(FrontOptions(api_keys=(KEY,)))
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}  # of the robot\n\n")
    assert read_api_keys(file) == (KEY,)
    file.write_text("short\n")
    with pytest.raises(InvalidInputError, match="16 letters"):
        read_api_keys(file)
    with pytest.raises(InvalidInputError, match="check the path"):
        read_api_keys(tmp_path / "none")


def test_json_in_the_answer_is_plain(client: TestClient) -> None:
    answer = client.post("/v1/detect", content=ORANGE)
    assert answer.headers["content-type"] == "application/json"
    json.loads(answer.content, parse_constant=lambda text: pytest.fail(f"not JSON: {text}"))
