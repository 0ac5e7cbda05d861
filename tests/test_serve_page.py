"""The web page of `edgedet serve`, in a real headless Chromium: what it draws is what the server found."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from conftest import skip_or_fail
from page_checks import CONTRAST, NAMES, SMALL_TARGETS
from PIL import Image
from playwright import sync_api
from test_serve import BLUE, KEY, ORANGE, make_bundle, png
from test_verdict import report

from benchmarks.serving.server import Server, running
from edgedet import read_image
from edgedet.bundle import InputSpec, LogitsBoxes, add_json, add_model, set_best, write_bundle
from edgedet.serve.page import FILES

FLOOR = 0.05  # the page asks for what scores this or more
BOXES = """() => [...document.querySelectorAll(".box .line")].map(line => {
  const number = name => Number(line.getAttribute(name));
  const box = [number("x"), number("y"), number("x") + number("width"), number("y") + number("height")];
  const screen = line.getBoundingClientRect();
  const index = Number(line.parentNode.dataset.index);
  return {index, box, screen: [screen.left, screen.top, screen.right, screen.bottom]};
}).sort((a, b) => a.index - b.index)"""
RECT = "e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(found).exists():
            skip_or_fail("browser", "there is no Chromium; apt-get install chromium, or playwright install chromium")
        # Its sandbox does not start in containers, and it loads nothing here but this server's page.
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--host-resolver-rules=MAP edge.test 127.0.0.1"]
        one = playwright.chromium.launch(executable_path=found, args=flags)
        yield one
        one.close()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A float model, and one with an INT8 model that passed verification and other class names."""
    folder = tmp_path_factory.mktemp("page")
    plain = make_bundle(folder / "tiny")
    model = tiny_onnx.logits_model(folder / "source.onnx")
    checked = write_bundle(
        folder / "checked",
        model,
        name="checked",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=3),
        classes=("a class with quite a long name, longer than the picture of a telephone is wide", "g", "b"),
    )
    add_model(checked, "int8", "openvino", model)
    set_best(checked, "openvino", "int8")
    add_json(checked, "report.json", report(checked))
    return f"tiny={plain}", f"checked={checked}"


@pytest.fixture(scope="module")
def server(bundles: tuple[str, str]) -> Iterator[Server]:
    with running(*bundles, "--threads", "1", "--max-upload", "1") as one:
        yield one


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[Open]:
    """Opens the page. Afterwards: no error that was not expected, nothing asked of anybody else."""
    contexts, troubles = [], []

    def open_page(url: str = server.url, *, expect: tuple[str, ...] = (), **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: any(e in said.text for e in expect) or troubles.append(said.text))
        mine = (url if url != "about:blank" else server.url, "blob:")
        page.on("request", lambda request: request.url.startswith(mine) or troubles.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def file(content: bytes, name: str = "photo.png", kind: str = "image/png") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": content}


def upload(page: Any, content: bytes = ORANGE, name: str = "photo.png") -> None:
    page.wait_for_selector(".verdict")
    page.set_input_files("#file", file(content, name))
    page.wait_for_selector('main[data-state="result"]')


def answering(**answer: Any) -> Callable[[Any], None]:
    """In the server's place."""

    def reply(route: Any) -> None:
        route.fulfill(**answer)

    return reply


def asked(server: Server, content: bytes, *, model: str = "tiny", score: float = FLOOR) -> list[dict[str, Any]]:
    """What the server finds, best first."""
    url = f"{server.url}/v1/detect?model={model}&score={score}"
    with urllib.request.urlopen(urllib.request.Request(url, content, {"Content-Type": "image/png"})) as answer:
        found: list[dict[str, Any]] = json.load(answer)["results"][0]["detections"]
    return found


def test_files_are_those_of_the_table(server: Server) -> None:
    folder = Path(__file__).parent.parent / "python" / "edgedet" / "serve" / "static"
    assert sorted(FILES.values()) == sorted(one.name for one in folder.iterdir())
    for path, name in FILES.items():
        with urllib.request.urlopen(server.url + path) as answer:
            assert answer.read() == (folder / name).read_bytes()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            policy, etag = answer.headers["Content-Security-Policy"], answer.headers["ETag"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        with pytest.raises(urllib.error.HTTPError, match="304"):
            urllib.request.urlopen(urllib.request.Request(server.url + path, headers={"If-None-Match": etag}))
    for path in ("/static/", "/static/none.js", "/static/../page.py", "/static/%2e%2e/page.py", "/static//etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server.url + path)


@pytest.mark.parametrize("density", [1, 2])
def test_boxes_are_where_the_server_found_them(density: int, opened: Open, server: Server) -> None:
    page = opened(device_scale_factor=density)
    upload(page)
    page.locator("#score").fill(str(FLOOR))
    expected = asked(server, ORANGE)
    assert len(expected) > 3
    for width in (1000, 360):
        page.set_viewport_size({"width": width, "height": 800})
        left, top, right, bottom = page.locator("#canvas").evaluate(RECT)
        assert (right - left) / (bottom - top) == pytest.approx(80 / 48, rel=0.01)
        found = page.evaluate(BOXES)
        np.testing.assert_allclose([one["box"] for one in found], [one["box"] for one in expected], atol=1e-3)
        scale = np.tile([(right - left) / 80, (bottom - top) / 48], 2)
        on_screen = np.array([one["box"] for one in expected]) * scale + [left, top, left, top]
        np.testing.assert_allclose([one["screen"] for one in found], on_screen, atol=1)
    pixel = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    assert page.locator("#canvas").evaluate(pixel) == [255, 128, 0, 255]
    rows = page.locator("#table tr").evaluate_all("rows => rows.map(row => row.cells[1].textContent)")
    assert rows == [f"{one['score']:.2f}" for one in expected]


def test_filters_ask_nobody(opened: Open, server: Server) -> None:
    page = opened()
    upload(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    found = asked(server, ORANGE)
    for score in (0.05, 0.5, 0.8):
        page.locator("#score").fill(str(score))
        left = [one for one in found if one["score"] >= score]
        assert page.locator(".box").count() == page.locator("#table tr").count() == len(left)
        assert page.locator("#count").inner_text() == f"{len(left)} shown"
        assert page.locator("#score-value").inner_text() == f"{score:.2f}"
    page.locator("#score").fill("0.99")
    assert page.locator(".box").count() == 0
    assert "Lower the threshold" in page.locator("#nothing").inner_text()
    page.locator("#score").fill("0.05")
    page.get_by_role("checkbox", name="red").uncheck()
    names = page.locator("#table button").all_inner_texts()
    assert names == [one["name"] for one in found if one["name"] != "red"]
    page.get_by_role("button", name="Hide all").click()
    assert page.locator(".box").count() == 0
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".box").count() == len(found)
    assert requests == []


def test_row_and_box_stand_out_together(opened: Open) -> None:
    page = opened()
    upload(page)
    page.locator("#table button").nth(1).focus()
    assert page.locator(".box.marked").get_attribute("data-index") == "1"
    assert "marked" in page.locator("#table tr").nth(1).get_attribute("class")
    page.locator("#score").focus()
    assert page.locator(".marked").count() == 0
    page.locator('.box[data-index="0"] .line').hover(force=True, position={"x": 3, "y": 3})
    index = int(page.locator(".box.marked").get_attribute("data-index"))
    assert "marked" in page.locator("#table tr").nth(index).get_attribute("class")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_come_by_drop_and_paste(way: str, opened: Open) -> None:
    page = opened()
    page.wait_for_selector(".verdict")
    page.evaluate(
        """([way, data]) => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
          const options = {bubbles: true, cancelable: true};
          const event = way === "drop"
            ? new DragEvent("drop", {...options, dataTransfer: transfer})
            : new ClipboardEvent("paste", {...options, clipboardData: transfer});
          document.querySelector("#frame").dispatchEvent(event);
        }""",
        [way, base64.b64encode(ORANGE).decode()],
    )
    page.wait_for_selector(".box")
    assert "dropped.png" in page.locator("#curl").inner_text()


def test_pictures_are_the_way_up_that_the_server_reads_them(opened: Open) -> None:
    page = opened(expect=("willReadFrequently",))  # it is this test that reads
    quarters = np.zeros((32, 64, 3), np.uint8)
    quarters[:16, :32], quarters[:16, 32:], quarters[16:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    places = [(u, v) for v in (0.25, 0.75) for u in (0.25, 0.75)]
    turned = {"JPEG": (1, 3, 6), "PNG": (1, 3, 6), "WEBP": range(1, 9)}  # of these the page turns WebP itself
    for kind, orientation in ((kind, one) for kind, several in turned.items() for one in several):
        exif, stream = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(quarters).save(stream, kind, exif=exif)
        upload(page, stream.getvalue(), f"{kind}{orientation}.img")
        read = read_image(stream.getvalue())
        height, width = read.shape[:2]
        size = page.locator("#canvas").evaluate("c => [c.width, c.height]")
        shown = page.locator("#canvas").evaluate(
            "(c, places) => places.map(([u, v]) => "
            "[...c.getContext('2d').getImageData(u * c.width, v * c.height, 1, 1).data].slice(0, 3))",
            places,
        )
        expected = [read[int(v * height), int(u * width)] for u, v in places]
        assert size == [width, height], (kind, orientation)
        np.testing.assert_allclose(shown, expected, atol=40, err_msg=f"{kind}, orientation {orientation}")
    assert page.locator("#note").is_hidden()


def test_a_file_that_the_browser_cannot_show(opened: Open) -> None:
    page = opened()
    upload(page, png(255, 128, 0, kind="TIFF"), "scan.tif")
    assert page.locator(".box").count() > 0
    assert "cannot show" in page.locator("#note").inner_text()


def test_where_the_time_went(opened: Open) -> None:
    page = opened()
    upload(page)
    names = page.locator("#stages dt").all_inner_texts()
    assert names == [
        "Queue",
        "Read image",
        "Wait for batch",
        "Preprocess",
        "Inference",
        "Decode boxes",
        "Network",
    ]
    figures = [float(text.removesuffix(" ms")) for text in page.locator("#stages dd").all_inner_texts()]
    assert sum(figures) == pytest.approx(float(page.locator("#total").inner_text().removesuffix(" ms")), abs=0.6)
    widths = page.locator("#bar span").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert np.argmax(widths) == np.argmax(figures)


def test_what_can_be_taken_away(opened: Open, server: Server) -> None:
    page = opened()
    upload(page, name="it's a photo.png")
    page.locator("#score").fill("0.5")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Save JSON").click()
    saved = json.loads(Path(taken.value.path()).read_text())
    assert saved["results"][0]["detections"] == asked(server, ORANGE, score=0.5)
    with page.expect_download() as taken:
        page.get_by_role("button", name="Save PNG").click()
    drawn = np.asarray(Image.open(taken.value.path()).convert("RGB"))
    assert drawn.shape == (48, 80, 3)
    left, _, _, bottom = (round(value) for value in asked(server, ORANGE, score=0.5)[0]["box"])
    assert abs(drawn[bottom - 5, left].astype(int) - (255, 128, 0)).max() > 60
    line = page.locator("#curl").inner_text()
    assert "--data-binary @'it'\\''s a photo.png'" in line or "@'it'\\''s a photo.png'" in line
    assert f"'{server.url}/v1/detect?model=tiny&score=0.50'" in line
    page.evaluate("document.execCommand = name => { window.copied = [name, String(getSelection())]; }")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as on plain HTTP
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("window.copied") == ["copy", line]


def test_several_models(opened: Open) -> None:
    page = opened(viewport={"width": 360, "height": 700})
    upload(page)
    assert "Float reference" in page.locator(".verdict").inner_text()
    page.get_by_role("combobox", name="Model").select_option("checked")
    page.wait_for_selector('main[data-state="result"] .box')
    verdict = page.locator(".verdict").inner_text()
    assert "Verified" in verdict
    assert "AP 0.341 -> 0.338 on 328 images" in verdict
    assert "int8" in page.locator("#model-body dl").inner_text()
    assert "model=checked" in page.locator("#curl").inner_text()
    picture = page.locator("#picture").evaluate(RECT)
    labels = page.locator(".label").evaluate_all(f"all => all.map({RECT})")
    assert len(labels) >= 2
    assert any("…" in text for text in page.locator(".label text").all_text_contents())
    for left, top, right, bottom in labels:  # none leaves the picture, however long
        assert left >= picture[0] - 0.5
        assert top >= picture[1] - 0.5
        assert right <= picture[2] + 0.5
        assert bottom <= picture[3] + 0.5


def test_verdicts_are_words(opened: Open, server: Server) -> None:
    with urllib.request.urlopen(server.url + "/v1/models") as answer:
        said = json.load(answer)
    words = {"refused": "Refused", "stale": "out of date", "unverified": "Not verified"}
    cards = [
        {**said["models"][1], "name": state, "verdict": {"state": state, "text": f"{state}: <b>AP</b> falls"}}
        for state in words
    ]
    page = opened("about:blank")
    page.route("**/v1/models", answering(json={**said, "models": cards}))
    page.goto(server.url)
    for state, expected in words.items():
        page.locator("#model").select_option(state)
        verdict = page.locator(".verdict").inner_text()
        assert expected in verdict
        assert "<b>AP</b> falls" in verdict


def complaint(page: Any) -> str:
    page.wait_for_selector("#alert strong")
    text: str = page.get_by_role("alert").inner_text()
    return text


REFUSED = "Failed to load resource"  # Chromium's own line about a status of 400 and more


def test_not_an_image(opened: Open) -> None:
    page = opened(expect=(REFUSED,))
    upload(page)
    page.set_input_files("#file", file(b"hello", "hello.txt", "text/plain"))
    said = complaint(page)
    assert page.locator("#empty").is_visible()
    assert page.locator("#picture").is_hidden()
    assert "not an image" in said
    assert "Use a whole JPEG" in said
    upload(page)
    assert page.locator("#alert").inner_text() == ""


def test_a_file_that_is_too_large_is_not_sent(opened: Open) -> None:
    page = opened()
    page.wait_for_selector(".verdict")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files("#file", file(b"x" * ((1 << 20) + 1)))
    said = complaint(page)
    assert "too large" in said
    assert "at most 1.0 MiB" in said
    assert sent == []


def test_errors_have_a_remedy(opened: Open) -> None:
    page = opened(expect=(REFUSED,))
    page.wait_for_selector(".verdict")
    for status, words, wait in (
        (413, "Shrink the image", None),
        (429, "busy", 3),
        (500, "failed on this image", None),
        (503, "not ready", 1),
        (504, "in time", None),
    ):
        refusal: dict[str, Any] = {"status": status, "json": {"error": f"expected other than {status}"}}
        if wait:
            refusal["headers"] = {"Retry-After": str(wait)}
        page.route("**/v1/detect*", answering(**refusal), times=1)
        page.set_input_files("#file", file(ORANGE))
        page.get_by_role("alert").get_by_text(f"expected other than {status}").wait_for()
        said = complaint(page)
        assert words in said
        assert page.locator("#picture").is_visible()
        assert page.locator("#empty").is_hidden()
        assert ("again in" in said) == (wait is not None)
        assert wait is None or f"again in {wait} s" in said
        again = page.get_by_role("button", name="Try again")
        assert again.count() == (status not in (413, 500))
        if again.count():
            again.click()
            page.wait_for_selector('main[data-state="result"] .box')
            assert page.locator("#alert").inner_text() == ""


def test_a_server_that_is_loading(opened: Open, server: Server) -> None:
    page = opened("about:blank", expect=(REFUSED,))
    refusal = answering(status=503, headers={"Retry-After": "1"}, json={"error": "the models are being loaded"})
    page.route("**/v1/models", refusal, times=1)
    page.goto(server.url)
    assert "loading the models" in complaint(page)
    page.wait_for_selector(".verdict")
    assert page.locator("#alert").inner_text() == ""


def test_a_key_is_asked_for_and_kept_in_the_tab(bundles: tuple[str, str], opened: Open, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    with running(bundles[0], "--threads", "1", "--api-keys", tmp_path / "keys") as server:
        page = opened(server.url, expect=(REFUSED,))
        assert "needs an API key" in complaint(page)
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("does not know this API key").wait_for()
        field.fill(KEY)
        page.get_by_role("button", name="Use key").click()
        upload(page)
        assert field.is_hidden()
        assert "$EDGEDET_KEY" in page.locator("#curl").inner_text()
        assert KEY not in page.content()
        assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        page.reload()
        upload(page)
        server.process.kill()
        server.process.wait()
        page.set_input_files("#file", file(BLUE))
        assert "cannot be reached" in complaint(page)
        assert page.get_by_role("button", name="Try again").is_visible()


def test_the_camera(opened: Open) -> None:
    page = opened(permissions=["camera"])
    page.wait_for_selector(".verdict")
    under_way, most, done = 0, 0, 0

    def begins(request: Any) -> None:
        nonlocal under_way, most
        if "/v1/detect" in request.url:
            under_way += 1
            most = max(most, under_way)

    def ends(request: Any) -> None:
        nonlocal under_way, done
        if "/v1/detect" in request.url:
            under_way -= 1
            done += 1

    page.on("request", begins)
    page.on("requestfinished", ends)
    page.get_by_role("button", name="Use camera").click()
    sync_api.expect(page.locator("#fps")).to_contain_text(re.compile(r"[1-9].* frames/s detected"))
    page.wait_for_selector(".box")
    while done < 5:
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Stop camera").click()
    page.wait_for_timeout(100)
    stopped = done
    page.wait_for_timeout(200)
    assert (most, done) == (1, stopped)
    assert page.locator(".box").count() > 0  # the last frame stays
    assert "frame.jpg" in page.locator("#curl").inner_text()
    colours = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    assert page.locator("#canvas").evaluate(colours) > 3  # Chromium's pretended camera moves a pie over green


def test_a_camera_that_may_not_be_used(opened: Open) -> None:
    page = opened()
    page.wait_for_selector(".verdict")
    page.get_by_role("button", name="Use camera").click()
    assert "address bar" in complaint(page)
    assert page.get_by_role("button", name="Use camera").is_visible()


def test_no_camera(opened: Open) -> None:
    page = opened(permissions=["camera"])
    page.wait_for_selector(".verdict")
    reject = "() => Promise.reject(new DOMException('none', 'NotFoundError'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {reject}; }}")
    page.get_by_role("button", name="Use camera").click()
    assert "No camera was found" in complaint(page)


def test_plain_http_over_a_network_has_no_camera(opened: Open, server: Server) -> None:
    page = opened(server.url.replace("127.0.0.1", "edge.test"), expect=("Cross-Origin-Opener-Policy",))
    upload(page)
    assert page.evaluate("isSecureContext") is False
    page.get_by_role("button", name="Use camera").click()
    assert "--tls-cert" in complaint(page)


def test_everything_can_be_read(opened: Open) -> None:
    page = opened(expect=(REFUSED,))

    def check() -> None:
        grounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRAST) == [], scheme
            grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        assert len(grounds) == 2

    page.wait_for_selector(".verdict")
    check()
    upload(page)
    page.locator("#score").fill(str(FLOOR))
    page.get_by_role("checkbox", name="red").uncheck()
    check()
    page.set_input_files("#file", file(b"no image"))
    complaint(page)
    check()


def test_it_fits_fingers_and_small_screens(opened: Open) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)

    def check() -> None:
        for width in (360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(SMALL_TARGETS) == []

    page.wait_for_selector(".verdict")
    check()
    upload(page)
    page.locator("summary").click()
    check()


def test_everything_has_a_name_and_a_place(opened: Open) -> None:
    page = opened(permissions=["camera"])
    upload(page)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    nodes = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one["ignored"]]
    nameless = [role for role, name in nodes if role in NAMES and not name.strip()]
    assert nameless == []
    roles = [role for role, _ in nodes]
    assert {"banner", "main", "navigation", "table", "slider", "combobox", "status", "alert", "group"} <= set(roles)
    assert {"Picture", "Objects", "Latency", "Model"} <= {name for role, name in nodes if role == "region"}
    assert page.evaluate("[...document.querySelectorAll('h1, h2')].map(h => h.tagName)")[0] == "H1"
    sync_api.expect(page.locator("#status")).to_contain_text("with a score of")


def test_the_keyboard_is_enough(opened: Open) -> None:
    page = opened()
    page.wait_for_selector(".verdict")

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate("[document.activeElement.id, document.activeElement.textContent]")
            if name in focused:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none"
                return
        raise AssertionError(f"Tab never came to {name}")

    with page.expect_file_chooser() as chooser:  # from before the key: Playwright does not wait until it is listening
        tab_to("choose")
        page.keyboard.press("Enter")
    chooser.value.set_files(file(ORANGE))
    page.wait_for_selector(".box")
    before = page.locator(".box").count()
    tab_to("score")
    page.keyboard.press("Home")
    assert page.locator("#score-value").inner_text() == "0.05"
    assert page.locator(".box").count() > before
    page.keyboard.press("ArrowRight")
    assert page.locator("#score-value").inner_text() == "0.06"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.get_by_role("checkbox", name="red").is_checked() is False
    tab_to("none")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.locator(".box.marked").get_attribute("data-index") == "0"
    tab_to("copy")


def test_nothing_moves_for_who_asked_for_that(opened: Open) -> None:
    page = opened(reduced_motion="reduce")
    page.evaluate("document.querySelector('#working').hidden = false")
    assert page.locator(".spinner").evaluate("e => getComputedStyle(e).animationName") == "none"
