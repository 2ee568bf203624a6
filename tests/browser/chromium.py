"""Headless Chromium, driven through its DevTools protocol. It finds no host but this machine.

Needs a Chromium or Chrome on the path; the client of the protocol, websocket-client, comes with JupyterLab.
"""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import websocket

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
         "--allow-file-access-from-files",  # so that the pixels of a page on the disk can be looked at
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
PATIENCE = 600  # seconds that a page may take on a busy machine


def program() -> str | None:
    """The browser's program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A browser with an empty profile, for a `with` block."""

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen([program(), *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(self.profile.name, "DevToolsActivePort")
        until(port.is_file, "Chromium did not start")
        until(lambda: port.read_text(), "Chromium did not start")
        self.address = f"127.0.0.1:{port.read_text().split()[0]}"
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.profile.cleanup()

    def page(self, width: int = 1400, height: int = 900, dark: bool = False) -> "Page":
        """A new page of so many pixels, on a screen as wide; dark: its reader prefers dark colours."""
        with urlopen(Request(f"http://{self.address}/json/new?about:blank", method="PUT")) as answer:
            return Page(json.load(answer)["webSocketDebuggerUrl"], width, height, dark)


class Page:
    """One page. `asked`: the addresses that it asked for; `complaints`: what its scripts threw."""

    def __init__(self, address, width, height, dark):
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=PATIENCE)
        self.numbers = itertools.count(1)
        self.asked, self.complaints = [], []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")
        self.width, self.height = width, height
        self.screen(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if it were the window in front

    def screen(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def call(self, method: str, **parameters) -> dict:
        """The result of a method of the protocol; events that come meanwhile are noted."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.note(message)

    def note(self, event):
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(event["params"]["request"]["url"])
        if event.get("method") == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))

    def open(self, address: str) -> None:
        """Go to an address and wait until its page is loaded."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState == 'complete' && location.href != 'about:blank'", f"{address} did not load")

    def run(self, script: str):
        """The value of an expression in the page, awaited where it is a promise. RuntimeError: it threw."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def until(self, script: str, what: str, seconds: float = PATIENCE):
        """The first true value of an expression; TimeoutError with the words `what` where there is none in time."""
        return until(lambda: self.run(script), what, seconds)

    def screenshot(self, target: Path, most: int = 30_000) -> None:
        """Write a PNG of the whole page, down to `most` pixels: on a screen that is as high, as if nobody had to scroll."""
        height = min(self.call("Page.getLayoutMetrics")["cssContentSize"]["height"], most)
        self.screen(self.width, height)
        time.sleep(1)  # the theme's sidebars slide
        shot = self.call("Page.captureScreenshot")
        self.screen(self.width, self.height)
        Path(target).write_bytes(base64.b64decode(shot["data"]))

    def hosts(self) -> set[str]:
        """The other hosts that the page asked for anything."""
        return {urlsplit(url).netloc for url in self.asked if url.startswith(("http", "ws"))
                and urlsplit(url).hostname != "127.0.0.1"}

    def close(self) -> None:
        self.call("Page.close")
        self.socket.close()


def until(value, what, seconds=PATIENCE):
    """Ask `value()` until it is true, and return it; an error of the page counts as not yet, since it may be changing."""
    end, error = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            found = value()
            if found:
                return found
        except RuntimeError as problem:
            error = problem
        time.sleep(0.1)
    raise TimeoutError(f"{what} within {seconds:g} s" + (f": {error}" if error else ""))
