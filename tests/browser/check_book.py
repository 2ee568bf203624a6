"""Walk through a book in headless Chromium: requests to other hosts, first paint, page width, and axe-core's findings.

    python tests/browser/check_book.py runs/study/book --axe node_modules/axe-core/axe.min.js --shots shots

axe-core comes from npm (`npm install axe-core`); without --axe the rest is checked.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
PROBE = """
addEventListener("load", () => setTimeout(async () => {
  const root = document.documentElement;
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const rules = window.axe ? (await axe.run(document, {resultTypes: ["violations"]})).violations : [];
  const nodes = rule => rule.nodes.map(node => node.target.join(" ") + ": " + node.failureSummary);
  const found = rules.map(rule => ({rule: rule.id, help: rule.help, nodes: nodes(rule)}));
  const wide = [...document.querySelectorAll("article *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  const moved = await Promise.all([...document.querySelectorAll("figure > form")].map(async form => {
    const image = form.parentElement.querySelector("img"), control = form.elements[0], before = image.alt;
    control.value = 0;
    control.dispatchEvent(new Event("input"));
    await image.decode();
    return [before, image.alt];
  }));
  const report = {page: location.pathname.slice(1), paint: paint ? paint.startTime : null, violations: found,
                  width: root.scrollWidth, window: root.clientWidth, wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 100)),
                  images: [...document.images].filter(i => !i.alt && !i.closest("[aria-hidden]")).map(i => i.src),
                  math: document.querySelectorAll("math").length};
  report.explorers = moved;
  const next = await (await fetch("/report", {method: "POST", body: JSON.stringify(report)})).text();
  if (next) location = next;
}, 300));
"""


class Probing(SimpleHTTPRequestHandler):
    """Serves the book with the probe in every page, and takes its reports; the answer is the next page to visit."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if path.suffix != ".html" or not path.is_file():
            return super().do_GET()
        head = f"<script>localStorage.setItem('mode', '{self.server.mode}');{self.server.script}</script>"
        page = path.read_text(encoding="utf-8").replace("<head>", f"<head>{head}", 1).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.server.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        if self.server.waiting:
            self.wfile.write(f"/{self.server.waiting.pop(0)}".encode())
        else:
            self.server.done.set()

    def log_message(self, *arguments):
        pass


def chromium():
    """The browser's program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def serve(book, script, mode="light"):
    """A server of the folder `book` on this machine, running until `shutdown`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Probing, directory=str(book)))
    server.script, server.mode, server.reports, server.waiting, server.done = script, mode, [], [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def visit(book, pages, axe=None, mode="light", width=1400, seconds=60):
    """(reports, one a page; the hosts that were asked for anything, other than the server)."""
    server = serve(book, (Path(axe).read_text(encoding="utf-8") if axe else "") + PROBE, mode)
    server.waiting = list(pages[1:])
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        address = f"http://127.0.0.1:{server.server_port}/{pages[0]}"
        browser = subprocess.Popen([chromium(), *FLAGS, f"--user-data-dir={folder}/profile", f"--log-net-log={log}",
                                    f"--window-size={width},900", "--remote-debugging-port=0", address],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        finished = server.done.wait(seconds)
        browser.terminate()
        browser.wait()
        server.shutdown()
        if not finished:
            raise TimeoutError(f"{len(server.reports)} of {len(pages)} pages answered within {seconds} s")
        own = f"127.0.0.1:{server.server_port}"
        return server.reports, hosts(log.read_text(encoding="utf-8"), f"http://{own}") - {own}


def hosts(log, page):
    """The hosts of all addresses that pages of the origin `page` asked for, from Chromium's own log of its network.

    The browser's own requests, such as for updates, have no initiator.
    """
    asked = [line for line in log.splitlines() if f'"initiator":"{page}"' in line]
    assert asked, "the log of the network names no request of the pages"
    return {urlsplit(url).netloc for line in asked for url in re.findall(r'"url":"(https?:[^"]*)"', line)}


def screenshot(book, page, target, width, height, mode):
    """A picture of a page as wide as a phone or a screen; in a frame, since Chromium's own window has a least width."""
    frame = Path(book) / "frame.html"
    server = serve(book, "", mode)
    try:
        frame.write_text(f'<!DOCTYPE html><html><head></head><body style="margin:0"><iframe src="/{page}" width="{width}" '
                         f'height="{height}" style="border:0"></iframe></body></html>')
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run([chromium(), *FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 500)},{height}",
                            f"--screenshot={target}", "--virtual-time-budget=6000",
                            f"http://127.0.0.1:{server.server_port}/frame.html"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=True)
    finally:
        frame.unlink(missing_ok=True)
        server.shutdown()


def faults(report):
    """What is wrong with a page, one line each."""
    lines = [f"axe: {v['rule']} ({v['help']}), {len(v['nodes'])} x, first {v['nodes'][0]}" for v in report["violations"]]
    if report["paint"] is None or report["paint"] >= 1000:
        lines.append(f"first paint after {report['paint']} ms")
    if report["width"] > report["window"]:
        lines.append(f"{report['width']} px wide in a window of {report['window']}: {report['wide']}")
    lines += [f"no alternative text: {source[:80]}" for source in report["images"]]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("book", type=Path)
    parser.add_argument("--axe", help="the file axe.min.js of axe-core")
    parser.add_argument("--pages", nargs="*", help="pages to visit [all]")
    parser.add_argument("--shots", type=Path, help="folder of screenshots at 1400, 800 and 390 px, light and dark")
    given = parser.parse_args()
    pages = given.pages or sorted(page.name for page in given.book.glob("*.html"))
    bad = 0
    for mode in ("light", "dark"):
        for width in (1400, 800, 500):
            reports, others = visit(given.book, pages, given.axe, mode, width, seconds=60 * len(pages))
            for report in reports:
                print(f"{mode} {width} px {report['page']}: first paint {report['paint']} ms, {report['math']} formulas")
                for line in faults(report):
                    bad += 1
                    print(f"    {line}")
            bad += len(others)
            print(f"{mode} {width} px, other hosts: {sorted(others) or 'none'}")
    if given.shots:
        given.shots.mkdir(parents=True, exist_ok=True)
        for page in pages:
            for width in (1400, 800, 390):
                for mode in ("light", "dark"):
                    screenshot(given.book, page, given.shots / f"{Path(page).stem}_{width}_{mode}.png", width, 1600, mode)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
