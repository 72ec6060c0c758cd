"""The page in headless Chromium, clicked through: sorting, filters, provenance; no error, no request, no markup."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.records import Record, RunFolder, RunSpec
from infinitevl_bench.reports.artifacts import ARTIFACTS
from infinitevl_bench.reports.build import report_command

websockets = pytest.importorskip("websockets", reason="the browser is spoken to through the package websockets")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
NASTY = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
Evaluate = Callable[[str], Awaitable[Any]]
Show = Callable[[int, str], Awaitable[None]]


@pytest.fixture
def page(tmp_path: Path, mixed: list[Record]) -> Path:
    spec = RunSpec(kind="ablate", arguments={"number": 1})
    with RunFolder(tmp_path / "runs", spec) as folder:
        folder.write_environment("a <card>")
        named = [r.model_copy(update={"run_id": spec.id if r.mixer == "gla" else r.run_id}) for r in mixed]
        folder.finish([*named, mixed[0].model_copy(update={"mixer": NASTY, "device": NASTY})])
    report_command(tmp_path / "runs", tmp_path / "out", None, ["html"], False)
    return tmp_path / "out" / "index.html"


@asynccontextmanager
async def browser(page: Path, profile: Path) -> AsyncIterator[tuple[Evaluate, Show, list[dict[str, Any]]]]:
    """A page opened in a browser of its own.

    Gives what evaluates JavaScript there, what sets the window's width and theme, and the events that come.
    """
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        for _ in range(600):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port, path = port_file.read_text().splitlines()
        address = f"ws://127.0.0.1:{port}{path}"
        async with websockets.connect(address, max_size=None, proxy=None) as socket:
            events: list[dict[str, Any]] = []
            number = 0

            async def call(method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
                nonlocal number
                number += 1
                message = {"id": number, "method": method, "params": parameters}
                await socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
                while True:
                    answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
                    if answer.get("id") == number:
                        assert "error" not in answer, answer
                        return answer["result"]
                    events.append(answer)

            target = (await call("Target.createTarget", url="about:blank"))["targetId"]
            session = (await call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
            for domain in ("Runtime", "Log", "Network", "Page"):
                await call(f"{domain}.enable", session)
            await call("Page.navigate", session, url=page.as_uri())

            async def evaluate(script: str) -> Any:
                options = {"returnByValue": True, "awaitPromise": True}
                found = await call("Runtime.evaluate", session, expression=script, **options)
                assert "exceptionDetails" not in found, found
                return found["result"].get("value")

            async def show(width: int, theme: str) -> None:
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                await call("Emulation.setDeviceMetricsOverride", session, **size)
                features = [{"name": "prefers-color-scheme", "value": theme}]
                await call("Emulation.setEmulatedMedia", session, media="screen", features=features)

            for _ in range(300):
                if await evaluate("document.readyState") == "complete":
                    break
                await asyncio.sleep(0.1)
            yield evaluate, show, events
    finally:
        process.kill()
        process.wait()


def test_the_page_works_and_asks_for_nothing(page: Path, tmp_path: Path, make: SimpleNamespace) -> None:
    async def click_through() -> None:
        async with browser(page, tmp_path / "profile") as (evaluate, show, events):
            assert await evaluate("document.querySelectorAll('#claims .card').length") == 9
            assert await evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
            assert await evaluate("document.images.length") >= 8
            assert await evaluate("window.broken") is None
            assert await evaluate("document.body.textContent.includes('<script>window.broken')")
            await sorting(evaluate)
            await filters(evaluate)
            await provenance(evaluate)
            await enlarging(evaluate)
            await structure(evaluate, show)
            bad = [
                event
                for event in events
                if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
                or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error")
            ]
            assert bad == []
            asked = {
                event["params"]["request"]["url"].partition(":")[0]
                for event in events
                if event["method"] == "Network.requestWillBeSent"
            }
            assert asked <= {"file", "data"}

    asyncio.run(click_through())


async def sorting(evaluate: Evaluate) -> None:
    """A click on a number's heading sorts its column, downwards first, upwards then."""
    column = (
        "(() => { const table = document.querySelector('#table1 table');"
        "const at = [...table.querySelectorAll('thead th')].findIndex((one) => one.textContent.startsWith('Average'));"
        "if (CLICK) table.querySelectorAll('thead th')[at].querySelector('button').click();"
        "return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.value)"
        ".filter((one) => one !== undefined).map(Number) })()"
    )
    once = await evaluate(column.replace("CLICK", "true"))
    assert len(once) > 5
    assert once == sorted(once, reverse=True)
    assert await evaluate(column.replace("CLICK", "true")) == sorted(once)


async def filters(evaluate: Evaluate) -> None:
    """Filters by split, device and scale hide the rows of other values in all tables."""
    names = await evaluate("[...document.querySelectorAll('#filters select')].map((one) => one.dataset.facet)")
    assert {"source", "split", "device", "scale"} <= set(names)
    choose = (
        "(() => { const one = document.querySelector('#filters select[data-facet=split]'); one.value = 'VALUE';"
        "one.dispatchEvent(new Event('change', {bubbles: true}));"
        "const rows = [...document.querySelectorAll('tr[data-split]')];"
        "return rows.map((row) => [row.dataset.split, row.hidden]) })()"
    )
    emptied = (
        "[...document.querySelectorAll('table.emptied')].map((one) => [...one.tBodies[0].rows].map((r) => r.hidden))"
    )
    assert await evaluate(emptied) == []
    rows = await evaluate(choose.replace("VALUE", "official"))
    hidden_whole = await evaluate(emptied)
    assert hidden_whole
    assert all(all(table) for table in hidden_whole)
    assert {split for split, _ in rows} >= {"official", "synthetic"}
    assert all(hidden == (split != "official") for split, hidden in rows)
    assert not any(hidden for _, hidden in await evaluate(choose.replace("VALUE", "")))


async def provenance(evaluate: Evaluate) -> None:
    """A click on a row's source shows the runs behind it, and only these."""
    open_row = (
        "(() => { const cell = [...document.querySelectorAll('td[data-runs]')]"
        ".find((one) => one.dataset.runs.startsWith('ablate-') && !one.dataset.runs.includes(' '));"
        "cell.querySelector('button').click(); const dialog = document.getElementById('origin');"
        "return [cell.dataset.runs, dialog.open, dialog.textContent,"
        "[...dialog.querySelectorAll('tr[data-run]')].map((row) => row.dataset.run)] })()"
    )
    run, is_open, words, rows = await evaluate(open_row)
    assert is_open
    assert rows == [run]
    assert re.search(r"a <card>|a card|a processor", words)
    closed = "(() => { document.querySelector('#origin form button').click(); return 1 })()"
    await evaluate(closed)
    assert not await evaluate("document.getElementById('origin').open")


async def enlarging(evaluate: Evaluate) -> None:
    """A click on a figure opens it at the width of the window."""
    opened = (
        "(async () => { const small = document.querySelector('#fig4_latency figure img');"
        "small.closest('button').click(); const zoom = document.getElementById('zoom');"
        "const large = zoom.querySelector('img'); await large.decode();"
        "const found = [zoom.open, large.currentSrc === small.currentSrc,"
        "large.getBoundingClientRect().width > small.getBoundingClientRect().width];"
        "zoom.querySelector('form button').click(); return [...found, zoom.open] })()"
    )
    assert await evaluate(opened) == [True, True, True, False]


# What a screenshot would show, as numbers: the order of the parts, and where they lie.
STRUCTURE = """
(() => {
  const box = (one) => {
    const b = one.getBoundingClientRect();
    return [b.left, b.top + scrollY, b.right, b.bottom + scrollY];
  };
  const all = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());
  const linear = (part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.body);
  return {
    order: all("main > section, #filters, nav").map((one) => one.id || one.tagName),
    links: all("nav a").map((one) => one.getAttribute("href").slice(1)),
    headings: all("h1, h2, #claims h3").map((one) => one.textContent),
    headingBoxes: all("h1, h2, #claims h3").map(box),
    boxes: all("header, nav, #filters, main > section, .card, figure img, figcaption, .scroll")
      .map((one) => [one.id || one.className || one.tagName, ...box(one)]),
    width: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
    ink: luminance(style.color), paper: luminance(style.backgroundColor),
    dark: all("figure img").map((one) => one.currentSrc === one.closest("picture").querySelector("source").srcset),
  };
})()
"""


async def structure(evaluate: Evaluate, show: Show) -> None:
    """In both themes, wide and narrow: the same parts in the same order, all in the window, none on another."""
    seen = []
    for width in (1280, 768, 390):
        for theme in ("light", "dark"):
            await show(width, theme)
            for _ in range(100):
                found = await evaluate(STRUCTURE)
                # A picture changes its source a little after the theme.
                if set(found["dark"]) == {theme == "dark"}:
                    break
                await asyncio.sleep(0.1)
            seen.append(found)
            # Beside the page may be a scroll bar.
            assert width - 20 <= found["window"] <= width
            assert found["width"] <= found["window"], "the page scrolls sideways"
            for name, left, _, right, bottom in found["boxes"]:
                assert left >= -0.5, (width, name)
                assert right <= found["window"] + 0.5, (width, name)
                assert bottom > 0, name
            boxes = found["headingBoxes"]
            for number, (left, top, right, bottom) in enumerate(boxes):
                for other in boxes[number + 1 :]:
                    apart = other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top
                    assert apart, (width, found["headings"][number])
            high, low = sorted((found["ink"], found["paper"]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 7
            assert (found["ink"] > found["paper"]) == (theme == "dark")
            assert set(found["dark"]) == {theme == "dark"}
    first = seen[0]
    assert first["order"] == ["NAV", "claims", "filters", *ARTIFACTS, "missing", "provenance"]
    assert first["links"] == ["claims", *ARTIFACTS, "missing", "provenance"]
    for other in seen[1:]:
        for part in ("order", "links", "headings"):
            assert other[part] == first[part]
