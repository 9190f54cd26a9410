"""What fuzzing, and hostile parties before it, have found: it is tried again by every `make test`.

The corpus has a directory for each test of `make fuzz`. A file is what the test is given; of an object that the test
has a good example of, it is a list of changes: a place in the example, and what is put there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from tests.hostile import test_fuzz, test_fuzz_objects

CORPUS = Path(__file__).parent / "corpus"


def changed(original: Any, file: Path) -> Any:
    made = copy.deepcopy(original)
    for change in json.loads(file.read_text()):
        inner = made
        *way, last = change["at"]
        for key in way:
            inner = inner[key]
        inner[last] = change["value"]
    return made


def virtual_machine(file: Path) -> Any:
    vmi = vmi_object(GuestSpec(name="vm", vcpus=4), "pod", "here")
    vmi["metadata"]["uid"] = "vm"
    return changed(vmi, file)


def policy(file: Path) -> Any:
    (of,) = {change["of"] for change in json.loads(file.read_text())}
    return changed(test_fuzz_objects.POLICIES[of], file)


KINDS: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "domain": (test_fuzz.test_any_xml_of_a_domain_is_read_within_bounds_or_refused, Path.read_text),
    "guest-agent": (test_fuzz.test_any_answer_of_a_guest_agent_is_read_within_bounds_or_refused, Path.read_text),
    "program-status": (test_fuzz.test_any_status_of_a_guest_program_is_read_within_bounds_or_refused, Path.read_bytes),
    "vm": (test_fuzz.test_any_object_of_a_vm_is_read_and_reported_or_named, virtual_machine),
    "report": (
        test_fuzz_objects.test_any_report_of_a_node_is_decided_by_or_refused,
        lambda file: changed(test_fuzz_objects.REPORT, file),
    ),
    "policy": (test_fuzz_objects.test_any_policy_of_a_file_is_loaded_or_refused, policy),
    "trace": (test_fuzz_objects.test_any_trace_is_read_or_refused, Path.read_bytes),
}
"""Which test each directory is for, and how its files are read."""


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_was_found_once_is_read_or_refused_ever_after(file: Path) -> None:
    test, read = KINDS[file.parent.name]
    test.hypothesis.inner_test(read(file))


def test_each_test_of_make_fuzz_has_a_corpus() -> None:
    fuzzed = {
        test for module in (test_fuzz, test_fuzz_objects) for name, test in vars(module).items() if name[:5] == "test_"
    }
    assert {test for test, _ in KINDS.values()} == fuzzed
    assert {each.name for each in CORPUS.iterdir() if any(each.iterdir())} == set(KINDS)
