"""Debian's Firefox, driven by WebDriver BiDi over its own socket: no driver besides the browser."""

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

from tests.helpers.browser import OWN, Page

KEYS = {
    "Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c", "PageUp": "\ue00e", "PageDown": "\ue00f", "End": "\ue010",
    "Home": "\ue011", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015",
    "Shift": "\ue008", "Space": " ",
}  # fmt: skip
_STILL = 0.3  # seconds without a change: until then the file has a name for the time being

PREFERENCES = {
    "network.proxy.type": 1,  # a proxy that is not there: nothing gets out
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.normandy.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "browser.aboutwelcome.enabled": False,
    "intl.accept_languages": "en-GB",
    "ui.prefersReducedMotion": 1,
    "browser.download.folderList": 2,
    "browser.download.alwaysOpenPanel": False,
    "browser.download.manager.addToRecentDocs": False,
}


class _FirefoxPage(Page):
    def __init__(self, call: Callable[..., Any], context: str, folder: Path) -> None:
        self._call, self._context, self._folder, self._at = call, context, folder, (0, 0)
        self.troubles = []

    def told(self, method: str, params: dict[str, Any]) -> None:
        """An event of the browser: what is a trouble is kept."""
        if method == "log.entryAdded" and params["level"] in ("error", "warn"):
            self.troubles.append(params["text"] or "")
        if method == "network.beforeRequestSent" and params.get("context") == self._context:
            url = params["request"]["url"]
            self.troubles += [] if url.startswith(OWN) else [url]

    def evaluate(self, function: str, arg: Any = None) -> Any:
        told = self._call(
            "script.callFunction",
            functionDeclaration=f"async (text) => JSON.stringify(await ({function})(JSON.parse(text)) ?? null)",
            arguments=[{"type": "string", "value": json.dumps(arg)}],
            target={"context": self._context},
            awaitPromise=True,
        )
        if told["type"] == "exception":
            raise AssertionError(told["exceptionDetails"]["text"])
        return json.loads(told["result"]["value"])

    def _act(self, kind: str, *actions: dict[str, Any]) -> None:
        source = {"type": kind, "id": kind, "actions": list(actions)}
        self._call("input.performActions", context=self._context, actions=[source])

    def front(self) -> None:
        self._call("browsingContext.activate", context=self._context)

    def press(self, *keys: str) -> None:
        for key in keys:
            parts = [KEYS.get(part, part) for part in key.split("+")]
            downs = [{"type": "keyDown", "value": part} for part in parts]
            self._act("key", *downs, *({"type": "keyUp", "value": part} for part in reversed(parts)))

    def move(self, x: float, y: float) -> None:
        self._act("pointer", {"type": "pointerMove", "x": round(x), "y": round(y)})

    def down(self) -> None:
        self._act("pointer", {"type": "pointerDown", "button": 0})

    def up(self) -> None:
        self._act("pointer", {"type": "pointerUp", "button": 0})

    def resize(self, width: int, height: int) -> None:
        self._call("browsingContext.setViewport", context=self._context, viewport={"width": width, "height": height})

    def picture(self, path: Path) -> None:
        told = self._call("browsingContext.captureScreenshot", context=self._context)
        path.write_bytes(base64.b64decode(told["data"]))

    def saved(self, action: Callable[[], None]) -> tuple[str, bytes]:
        before = set(self._folder.iterdir())
        action()
        end, seen, since = time.monotonic() + 20, (), 0.0
        while time.monotonic() < end:
            try:
                new = tuple(
                    sorted((one.name, one.stat().st_size) for one in self._folder.iterdir() if one not in before)
                )
            except FileNotFoundError:  # it was renamed meanwhile
                continue
            if new != seen:
                seen, since = new, time.monotonic()
            elif len(new) == 1 and new[0][1] and time.monotonic() - since > _STILL:
                return new[0][0], (self._folder / new[0][0]).read_bytes()
            time.sleep(0.05)
        raise TimeoutError("nothing was downloaded")


class Firefox:
    """One Firefox with a profile of its own."""

    name = "firefox"

    def __init__(self, program: str, folder: Path, preferences: Mapping[str, Any]) -> None:
        profile, self._saved = folder / "profile", folder / "saved"
        profile.mkdir(parents=True)
        self._saved.mkdir()
        chosen = {**PREFERENCES, **preferences, "browser.download.dir": str(self._saved)}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in chosen.items()]
        (profile / "user.js").write_text("\n".join(lines))
        command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0"]
        log = folder / "log"
        with log.open("w") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream)
        self._socket = websocket.create_connection(f"{_address(log, self._process)}/session", suppress_origin=True)
        self._socket.settimeout(60)
        self._number, self._pages = 0, list[_FirefoxPage]()
        self._call("session.new", capabilities={})
        self._call("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv())
            if told.get("id") == self._number:
                if told["type"] == "error":
                    raise RuntimeError(f"{method}: {told['error']}: {told['message']}")
                return told["result"]
            for page in self._pages:
                page.told(told.get("method", ""), told.get("params", {}))

    @contextmanager
    def opened(self, url: str, size: tuple[int, int] = (1280, 900)) -> Iterator[Page]:
        """A page in a tab of its own."""
        context = self._call("browsingContext.create", type="tab")["context"]
        page = _FirefoxPage(self._call, context, self._saved)
        self._pages.append(page)
        page.resize(*size)
        self._call("browsingContext.navigate", context=context, url=url, wait="complete")
        yield page
        self._call("browsingContext.close", context=context)
        self._pages.remove(page)

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)


def _address(log: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> str:
    """Where it listens, as it says itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.05)
    process.kill()
    raise TimeoutError(f"Firefox did not start: {log.read_text(errors='replace')[-400:]}")
