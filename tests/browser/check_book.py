"""Walk through a book in headless Chromium: other hosts, first paint, page width, explorers, axe-core's findings, pictures.

    python tests/browser/check_book.py runs/study --axe node_modules/axe-core/axe.min.js --shots shots

The folder is a book, or a study, whose book is built first. Needs Chromium; axe-core comes from npm (`npm install axe-core`),
and without --axe the rest is checked. Exit code 1: something is wrong, and a line says what; 77: no Chromium here.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from chromium import Browser, program
from explorers import MOVE, wrong_states

from clipnotes.book.build import MARK, build_book

PAGES = ["index", "02_intra_modal_overlap", "04_cache_models", "07_noisy_labels", "10_confusion", "13_results"]
SIZES = {1400: 900, 800: 1100, 390: 844}  # a screen, a tablet, a phone: width and height in pixels
MOST_PAINT = 1000  # milliseconds until something is seen
LOOK = """(async () => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("article *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest(".unseen, pre, math, .cell_output, .pst-scrollable-table-container, .tex2jax_ignore"));
  return {paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
          width: root.scrollWidth, window: root.clientWidth, wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 100)),
          images: [...document.images].filter(i => !i.alt && !i.closest("[aria-hidden]")).map(i => i.src),
          math: document.querySelectorAll("math").length};
})()"""
AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.map(rule => ({rule: rule.id,
  help: rule.help, nodes: rule.nodes.map(node => node.target.join(" ") + ": " + node.failureSummary)})))"""


def visit(browser, address, width=1400, dark=False, axe="", shot=None):
    """What is seen on a page, and what is wrong with it, one line each: {"math", "explorers", ..., "faults"}."""
    page = browser.page(width, SIZES.get(width, 900), dark)
    page.open(address)
    report = page.run(LOOK)
    if shot:
        page.run("Promise.all([...document.images].map(image => (image.loading = 'eager', image.decode().catch(() => 0))))")
        page.screenshot(shot)
    report["violations"] = page.run(f"{axe};{AXE}") if axe else []
    report["explorers"] = page.run(MOVE)
    report["others"] = sorted(page.hosts())
    report["faults"] = faults(report) + page.complaints
    page.close()
    return report


def faults(report):
    """What is wrong with a page, one line each; the first paint is judged by whoever knows how busy the machine is."""
    lines = [f"axe: {v['rule']} ({v['help']}), {len(v['nodes'])} x, first {v['nodes'][0]}" for v in report["violations"]]
    if report["width"] > report["window"]:
        lines.append(f"{report['width']} px wide in a window of {report['window']}: {report['wide']}")
    lines += [f"no alternative text: {source[:80]}" for source in report["images"]]
    lines += [f"asked another host: {host}" for host in report["others"]]
    return lines + wrong_states(report["explorers"])


def first_paint(browser, address):
    """Milliseconds until a page shows something, its second time: the browser's own start is not the page's matter."""
    for _ in range(2):
        page = browser.page()
        page.open(address)
        paint = page.until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime", f"{address} showed nothing")
        page.close()
    return paint


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a book, or a study")
    parser.add_argument("--axe", type=Path, help="the file axe.min.js of axe-core")
    parser.add_argument("--pages", nargs="*", default=PAGES, help="names of pages [%(default)s]; none for all")
    parser.add_argument("--shots", type=Path, help="folder for screenshots at 1400, 800 and 390 px, light and dark")
    given = parser.parse_args()
    if program() is None:
        print("Skipped: there is no Chromium or Chrome on the path.")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as place, Browser() as browser:
        book = given.folder if (given.folder / MARK).is_file() else build_book(given.folder, Path(place, "book")).parent
        sys.exit(walk(browser, book.absolute(), given))


def walk(browser, book, given):
    """Check every page in every size and scheme; True if anything is wrong."""
    bad, axe = 0, given.axe.read_text(encoding="utf-8") if given.axe else ""
    for name in given.pages or sorted(path.stem for path in book.glob("*.html")):
        address = (book / f"{name}.html").as_uri()
        paint = first_paint(browser, address)
        found = [f"first paint after {paint:.0f} ms"] * (paint >= MOST_PAINT)
        for width in SIZES:
            for dark in (False, True):
                scheme = "dark" if dark else "light"
                shot = given.shots and given.shots / f"{name}_{width}_{scheme}.png"
                if shot:
                    given.shots.mkdir(parents=True, exist_ok=True)
                report = visit(browser, address, width, dark, axe, shot)
                found += [f"{width} px, {scheme}: {line}" for line in report["faults"]]
        states = sum(len(explorer["states"]) for explorer in report["explorers"])
        print(f"{name}: first paint {paint:.0f} ms, {report['math']} formulas, {states} states of explorers, "
              f"{len(found)} faults", *found, sep="\n    ", flush=True)
        bad += len(found)
    return bool(bad)


if __name__ == "__main__":
    main()
