"""Errors in Knative's words."""

from controller.apis.fielderror import FieldError, disallowed, exactly_one, invalid, merged, missing, out_of_bounds


def test_texts() -> None:
    """The problem, the fields, and the detail on a line of its own."""
    assert str(missing("spec.a", "spec.b")) == "missing field(s): spec.a, spec.b"
    assert str(disallowed("spec.a")) == "must not set the field(s): spec.a"
    assert str(invalid("spec.a", True, "why")) == "invalid value: true: spec.a\nwhy"
    assert str(out_of_bounds("spec.a", 101, 0, 100)) == "expected 0 <= 101 <= 100: spec.a"


def test_exactly_one() -> None:
    """One of the fields is right; none or several are one error that names them all, or those that were set."""
    among = ("a", "b")
    assert exactly_one("x", "a", among=among) is None
    assert str(exactly_one("x", "a", "b", among=among)) == "expected exactly one, got both: x.a, x.b"
    assert str(exactly_one("x", among=among)) == "expected exactly one, got neither: x.a, x.b"


def test_equal_problems_are_one_error() -> None:
    """Fields with the same problem share a message, sorted; another detail makes another error."""
    errors = [disallowed("b"), missing("a"), disallowed("c"), disallowed("b"), disallowed("d", "detail")]
    assert merged(errors) == [
        FieldError("a", "missing field(s)"),
        FieldError("b, c", "must not set the field(s)"),
        FieldError("d", "must not set the field(s)", "detail"),
    ]
