"""A headless Chromium that is spoken to over a pipe (the DevTools protocol), so that keys are pressed as a reader presses them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPTIONS = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update"]
OPTIONS += ["disable-sync", "disable-extensions", "disable-default-apps", "host-resolver-rules=MAP * ~NOTFOUND", "remote-debugging-pipe"]
WATCHED = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.requestWillBeSent")


class Browser:
    """One page in a browser.

    Attributes:
        events: what happened on the page: (method, parameters) of requests, exceptions and console messages.
    """

    def __init__(self, to: int, back: int) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._to, self._back, self._number, self._session = to, os.fdopen(back, "rb"), 0, ""
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = self._back.read1(1 << 20)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        if message.get("method") in WATCHED:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def look_like(self, width: int, scheme: str = "light", *, motion: str = "no-preference", height: int = 900) -> None:
        """Set the width of the window in pixels, the colour scheme and the wish for motion."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **({"clip": self._clip()} if whole else {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


@contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """Start Chromium with its profile and HOME in an empty folder, and end it."""
    (child_in, to), (back, child_out) = os.pipe(), os.pipe()

    def connect() -> None:  # the pipe of --remote-debugging-pipe: it reads descriptor 3 and writes 4
        ends = os.dup(child_in), os.dup(child_out)
        for wanted, end in zip((3, 4), ends, strict=True):
            os.dup2(end, wanted)

    command = ["chromium", *(f"--{option}" for option in OPTIONS), f"--user-data-dir={home}/profile", "about:blank"]
    process = subprocess.Popen(
        command, close_fds=False, preexec_fn=connect, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(home)}
    )
    os.close(child_in)
    os.close(child_out)
    try:
        yield Browser(to, back)
    finally:
        process.kill()
        process.wait()
        os.close(to)
