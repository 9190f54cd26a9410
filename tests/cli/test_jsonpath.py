"""Templates of -o jsonpath, as kubectl's users write them."""

from __future__ import annotations

import pytest

from kubeballoon.cli.arguments import WrongOptionError
from kubeballoon.cli.jsonpath import render

DOCUMENT = {
    "nodes": [
        {"name": "a", "state": "Ample", "vms": 3, "labels": {"example.com/zone": "x"}},
        {"name": "b", "state": "Scarce", "vms": 12, "silent": True},
    ],
    "count": 2,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.count}", "2"),
        (".count", "2"),
        ("{$.count}", "2"),
        ("{.nodes[*].name}", "a b"),
        ("{.nodes[0].name}", "a"),
        ("{.nodes[-1].name}", "b"),
        ("{.nodes[0:1].name}", "a"),
        ("{.nodes[0]['name','state']}", "a Ample"),
        ("{..name}", "a b"),
        ('{.nodes[?(@.state=="Scarce")].name}', "b"),
        ("{.nodes[?(@.vms>5)].name}", "b"),
        (r"{.nodes[0].labels.example\.com/zone}", "x"),
        ('{range .nodes[*]}{.name}{"\\t"}{.vms}{"\\n"}{end}', "a\t3\nb\t12\n"),
        ("nodes: {.nodes[*].name}!", "nodes: a b!"),
        ("{.nodes[1].silent} {.nodes[0].labels}", 'true {"example.com/zone":"x"}'),
        ("{.nodes[0]}{@.count}", '{"name":"a","state":"Ample","vms":3,"labels":{"example.com/zone":"x"}}2'),
        ("{.none}", ""),
    ],
)
def test_a_template_is_rendered_as_kubectl_does(template: str, text: str) -> None:
    assert render(template, DOCUMENT) == text


@pytest.mark.parametrize("template", ["{.nodes", "{.nodes[}", "{range .nodes[*]}{.name}", "{end}", "{.a}}"])
def test_a_template_that_cannot_be_read_is_wrong_usage(template: str) -> None:
    with pytest.raises(WrongOptionError, match=r"^-o jsonpath: [^\n]*$"):
        render(template, DOCUMENT)
