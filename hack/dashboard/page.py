"""draw(): draws a dashboard as a PNG, on a page that is built from npm packages once and opened in Chromium."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hack.dashboard.answers import Series, Span
from hack.testbed.controlplane.build import cached
from hack.testbed.controlplane.commands import run
from hack.testbed.controlplane.errors import ControlPlaneError

_SOURCES = Path(__file__).with_name("page")
_INSTALL_SECONDS = 600.0
_BUNDLE_SECONDS = 120.0
_DRAW_SECONDS = 120.0
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# The .ttf is of Monaco, an editor among Grafana's components, which the page does not use.
_BUNDLE = (
    "page.jsx",
    "--bundle",
    "--minify",
    "--jsx=automatic",
    "--loader:.woff2=dataurl",
    "--loader:.ttf=empty",
    '--define:process.env.NODE_ENV="production"',
    "--log-level=error",
    "--outfile=page.js",
)


def draw(dashboard: dict[str, Any], answers: dict[int, list[Series]], span: Span, picture: Path) -> None:
    """Draw a dashboard as a PNG.

    Raises:
        ControlPlaneError: A panel has no data or cannot be drawn, or npm, node or Chromium is missing.
    """
    may_be_empty = {panel["id"] for panel in dashboard["panels"] if "noValue" in _defaults(panel)}
    titles = {panel["id"]: panel["title"] for panel in dashboard["panels"]}
    measured = {panel for panel, series in answers.items() if any(each["values"] for each in series)}
    empty = [titles[panel] for panel in answers if panel not in measured | may_be_empty]
    if empty:
        raise ControlPlaneError(f"nothing was measured for {', '.join(empty)}")
    node, chromium = _program("node"), _program(*_CHROMIUM)
    built = cached(f"dashboard-{_fingerprint()}", _build)
    data = {
        "dashboard": dashboard,
        "results": answers,
        "range": {"from": round(span.start * 1000), "to": round(span.end * 1000)},
    }
    with tempfile.TemporaryDirectory(prefix="kubeballoon-") as scratch:
        page = Path(scratch)
        for name in ("index.html", "page.js", "page.css"):
            shutil.copy(built / name, page)
        (page / "data.js").write_text(f"Object.assign(globalThis, {json.dumps(data)});\n")
        command: list[str | Path] = [node, built / "shoot.mjs", chromium, (page / "index.html").as_uri(), picture]
        run(command, seconds=_DRAW_SECONDS)


def _defaults(panel: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of all of a panel's fields; a row has none."""
    defaults: dict[str, Any] = panel.get("fieldConfig", {}).get("defaults", {})
    return defaults


def _build(result: Path) -> None:
    npm = _program("npm")
    shutil.copytree(_SOURCES, result)
    print("fetching Grafana's components from npm", flush=True)
    # --ignore-scripts: no package runs code of its own when it is installed.
    install = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", f"--prefix={result}")
    run(install, seconds=_INSTALL_SECONDS)
    modules = result / "node_modules"
    bundle = (_program("env"), "-C", result, modules / ".bin/esbuild", *_BUNDLE)
    run(bundle, seconds=_BUNDLE_SECONDS)
    # The bundle contains everything else.
    for entry in modules.iterdir():
        if entry.name != "playwright-core":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _fingerprint() -> str:
    digest = hashlib.sha256("\n".join(_BUNDLE).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(f"\n{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _program(*names: str) -> Path:
    """Return the path of the first of these programs that is on PATH."""
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    raise ControlPlaneError(f"no {' or '.join(names)} on PATH: see hack/dashboard/packages.txt")
