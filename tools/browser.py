"""A headless Chromium through its driver: the few calls of the WebDriver protocol that tests and screens need.

    with Browser(width, height) as browser: browser.open(path.as_uri()); browser.run("return document.title")

Debian: apt-get install chromium chromium-driver.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from lib.errors import UserError

# Without a sandbox, as root in a container has it; without the traffic of a browser's own.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
         "--disable-dev-shm-usage", "--hide-scrollbars")  # fmt: skip
KEYS = {"ArrowDown": "\ue015", "ArrowUp": "\ue013", "Escape": "\ue00c", "Enter": "\ue007"}


def missing() -> str:
    """What is not there to drive a Chromium; "" where all is."""
    gone = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(gone)} (Debian: apt-get install chromium chromium-driver)" if gone else ""


class Browser:
    """A browser of its own, with an empty profile; a context manager. Raises UserError where none is installed."""

    def __init__(self, width: int = 1280, height: int = 800):
        if why := missing():
            raise UserError(why)
        self.size = (width, height)

    def __enter__(self) -> Browser:
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        # It says which port it has taken.
        for line in self.driver.stdout:
            if "successfully on port" in line:
                self.url = "http://127.0.0.1:" + line.split("on port")[1].strip(" .\n")
                break
        arguments = [*FLAGS, f"--user-data-dir={self.profile.name}", f"--window-size={self.size[0]},{self.size[1]}"]
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
                  "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": arguments}}  # fmt: skip
        try:
            self.session = ""
            self.session = self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if self.session:
            self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.profile.cleanup()

    def call(self, method: str, path: str, body: dict | None = None):
        """One command of the protocol; its value."""
        url = f"{self.url}/session{'/' + self.session if self.session else ''}{path}"
        data = None if method == "DELETE" else json.dumps(body or {}).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {json.load(error)['value']['message']}") from error

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *args):
        """The value that a function body returns in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, script: str, seconds: float = 60.0) -> None:
        """Until a function body returns something true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Keys by their names or characters, one after another, to what has the focus."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def prefer(self, scheme: str) -> None:
        """What the page is told of the reader's preference: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}})

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        url = f"{self.url}/session/{self.session}/screenshot"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=120) as reply:
            path.write_bytes(base64.b64decode(json.load(reply)["value"]))

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, by the browser's own log."""
        entries = self.call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Errors and warnings of the page's console since the last call."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]
