"""This module is ``completion``: it prints the code by which a shell, or kubectl, completes the command line."""

from __future__ import annotations

from argcomplete.shell_integration import shellcode

from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.output import Output

_BINARY = "kubectl-balloon"
# kubectl runs this script with the words typed so far. It expects one completion per line, and last a directive to the
# shell: 4 forbids the completion of file names.
_KUBECTL_SCRIPT = f"""\
#!/bin/sh
COMP_LINE="{_BINARY} $*" _ARGCOMPLETE=1 _ARGCOMPLETE_IFS='
' _ARGCOMPLETE_STDOUT_FILENAME=/dev/stdout _ARGCOMPLETE_SUPPRESS_SPACE=1
COMP_POINT=${{#COMP_LINE}}
export COMP_LINE COMP_POINT _ARGCOMPLETE _ARGCOMPLETE_IFS _ARGCOMPLETE_STDOUT_FILENAME _ARGCOMPLETE_SUPPRESS_SPACE
{_BINARY} 2>/dev/null | cat
printf '\\n:4\\n'
"""


def run(shell: str) -> ExitStatus:
    """Print the code for a shell, or for kubectl."""
    code = _KUBECTL_SCRIPT if shell == "kubectl" else shellcode([_BINARY], use_defaults=False, shell=shell)
    Output.to_stdout(None).print_text(code.rstrip())
    return ExitStatus.DONE
