"""Draw docs/cli-*.svg: what kubectl-balloon shows of a fake cluster of 51 nodes and 1,200 VMs."""

from __future__ import annotations

import io
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hack.bench.fake_api_server import FakeCollections, handler, write_kubeconfig
from kubeballoon.cli import diff, explain, status, top
from kubeballoon.cli.cluster_view import read_cluster
from kubeballoon.cli.live_screen import ScreenState, Snapshot, draw, press, to_rich
from kubeballoon.cli.main import parse
from kubeballoon.cli.output import Output
from kubeballoon.cluster.reader import ApiReader

DOCS = Path("docs")
COLUMNS, LINES = 80, 24
NODES, VMS = 51, 1200
POLICY = """\
apiVersion: kubeballoon.io/v1alpha1
kind: MemoryPolicy
metadata: {name: default}
spec:
  selector: {}
  memory: {min: 25%, idleTax: 90}
"""
RUNS = {"status": status.run, "top": top.run, "explain": explain.run, "diff": diff.run}


@contextmanager
def cluster(directory: Path) -> Iterator[ApiReader]:
    """Serve a fake cluster, and read it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(FakeCollections(NODES, VMS / NODES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    write_kubeconfig(directory / "kubeconfig", server.server_address[1])
    try:
        with ApiReader.connect(directory / "kubeconfig") as reader:
            yield reader
    finally:
        server.shutdown()
        server.server_close()


def shown(reader: ApiReader, arguments: Sequence[str], lines: int) -> Text:
    """Run a command as on a terminal, and return the first lines of what it prints."""
    stream = io.StringIO()
    RUNS[arguments[0]](parse(arguments), reader, Output(None, stream, colours=True, columns=COLUMNS))
    return Text.from_ansi("\n".join(stream.getvalue().splitlines()[:lines]))


def save(name: str, title: str, text: Text) -> None:
    """Save a screen as SVG, whose ids depend on nothing but its name."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(text, no_wrap=False)
    path = DOCS / f"cli-{name}.svg"
    drawing = console.export_svg(title=title, unique_id=f"cli-{name}")
    # rich would have readers' browsers fetch a font from elsewhere; any of fixed width does.
    path.write_text(re.sub(r"\s*@font-face \{.*?\}", "", drawing, flags=re.DOTALL), encoding="utf-8")
    print(path)


def live(reader: ApiReader, *keys: str) -> Text:
    """Draw ``top -w`` after some keys."""
    snapshot, state = Snapshot.of(read_cluster(reader)), ScreenState()
    for key in keys:
        state = press(state, key, snapshot, LINES - 4)
    text: Text = to_rich(draw(state, snapshot, "", COLUMNS, LINES), Text)
    return text


def main() -> int:
    """Draw each command's screen as an SVG file in docs/."""
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as reader:
        policy = Path(name) / "policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        troubled = min(Snapshot.of(read_cluster(reader)).vms, key=top.VM_ORDERS["trouble"])
        vm = f"{troubled.namespace}/{troubled.name}"
        save("top-watch", "kubectl balloon top -w", live(reader))
        save("top-watch-vms", "kubectl balloon top -w", live(reader, "v"))
        save("status", "kubectl balloon status", shown(reader, ["status"], LINES))
        save("top", "kubectl balloon top nodes", shown(reader, ["top", "nodes"], LINES))
        save("explain", f"kubectl balloon explain {vm}", shown(reader, ["explain", vm], LINES + 3))
        save("diff", "kubectl balloon diff -f policy.yaml", shown(reader, ["diff", "-f", str(policy)], 2 * LINES - 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
