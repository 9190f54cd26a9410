"""``completion``: code by which shells, and kubectl, complete the command."""

from __future__ import annotations

from argcomplete.shell_integration import shellcode

from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.output import Output

_BINARY = "kubectl-balloon"
# kubectl runs this with the words so far, and takes one completion a line and, last, a directive: 4 is "no files".
_FOR_KUBECTL = f"""\
#!/bin/sh
COMP_LINE="{_BINARY} $*" _ARGCOMPLETE=1 _ARGCOMPLETE_IFS='
' _ARGCOMPLETE_STDOUT_FILENAME=/dev/stdout _ARGCOMPLETE_SUPPRESS_SPACE=1
COMP_POINT=${{#COMP_LINE}}
export COMP_LINE COMP_POINT _ARGCOMPLETE _ARGCOMPLETE_IFS _ARGCOMPLETE_STDOUT_FILENAME _ARGCOMPLETE_SUPPRESS_SPACE
{_BINARY} 2>/dev/null | cat
printf '\\n:4\\n'
"""


def run(shell: str) -> Exit:
    """Print the code for a shell."""
    code = _FOR_KUBECTL if shell == "kubectl" else shellcode([_BINARY], use_defaults=False, shell=shell)
    Output.of(None).say(code.rstrip())
    return Exit.DONE
