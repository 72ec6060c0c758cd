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
from infinitevl_bench.reports.build import report_command

websockets = pytest.importorskip("websockets", reason="the browser is spoken to through the package websockets")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
NASTY = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
Evaluate = Callable[[str], Awaitable[Any]]


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
async def browser(page: Path, profile: Path) -> AsyncIterator[tuple[Evaluate, list[dict[str, Any]]]]:
    """A page opened in a browser of its own; gives what evaluates JavaScript there, and the events that come."""
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

            for _ in range(300):
                if await evaluate("document.readyState") == "complete":
                    break
                await asyncio.sleep(0.1)
            yield evaluate, events
    finally:
        process.kill()
        process.wait()


def test_the_page_works_and_asks_for_nothing(page: Path, tmp_path: Path, make: SimpleNamespace) -> None:
    async def click_through() -> None:
        async with browser(page, tmp_path / "profile") as (evaluate, events):
            assert await evaluate("document.querySelectorAll('#claims .card').length") == 9
            assert await evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
            assert await evaluate("document.images.length") >= 8
            assert await evaluate("window.broken") is None
            assert await evaluate("document.body.textContent.includes('<script>window.broken')")
            await sorting(evaluate)
            await filters(evaluate)
            await provenance(evaluate)
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
    rows = await evaluate(choose.replace("VALUE", "official"))
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
