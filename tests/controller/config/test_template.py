"""Templates: substitution and nothing else."""

import pytest

from controller.config.template import parse_template

ALL = frozenset({"Name", "Tag", "Annotations", "Labels"})


def test_render() -> None:
    """Variables and map entries are replaced; an entry that is not set is empty, as in Go."""
    template = parse_template('a-{{ .Name }}.{{index .Labels "l"}}{{index .Annotations "none"}}-z', ALL)
    assert template.render({"Name": "n", "Tag": "t"}, labels={"l": "v"}) == "a-n.v-z"


@pytest.mark.parametrize(
    "source",
    [
        "{{.Other}}",
        "{{.Annotations}}",
        "{{.Name | upper}}",
        "{{if .Name}}x{{end}}",
        '{{index .Other "k"}}',
        "{{index .Labels k}}",
        "{{.Name",
        "}}",
        "{{}}",
        "UPPER",
        "with space",
    ],
)
def test_anything_else_is_an_error(source: str) -> None:
    """Functions, conditions, unknown fields and text that no host name can hold are refused."""
    with pytest.raises(ValueError, match=r"is not one of|does not fit"):
        parse_template(source, ALL)


def test_maps_only_where_they_are_allowed() -> None:
    """Labels and annotations may be read in templates that offer them only."""
    with pytest.raises(ValueError, match="is not one of"):
        parse_template('{{index .Labels "k"}}', frozenset({"Name"}))
