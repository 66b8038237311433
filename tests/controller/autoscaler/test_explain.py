from __future__ import annotations

from dataclasses import replace

import pytest

from controller.autoscaler.explain import SIZE, Explanation, History, explain
from controller.autoscaler.kpa import DeciderSpec, DeciderState, decide, first_decision

SPEC = DeciderSpec()


@pytest.mark.parametrize(
    ("spec", "state", "loads", "ready", "reason", "bound", "words"),
    [
        pytest.param(
            SPEC,
            {},
            (400, 400),
            4,
            "StableWindow",
            "",
            ["400 requests in flight", "60 s", "70", "6 replicas"],
            id="stable",
        ),
        pytest.param(SPEC, {}, (30, 200), 1, "PanicWindow", "", ["Panic: 200", "6 s", "3 replicas"], id="panic"),
        pytest.param(
            SPEC,
            {"panic_since": 95.0, "panic_pods": 9},
            (30, 30),
            9,
            "PanicHeld",
            "",
            ["9 replicas", "60 s"],
            id="held",
        ),
        pytest.param(
            SPEC, {}, (70, 35), 10, "StableWindow", "ScaleDownRate", ["1 replica;", "keeps 5 with 10"], id="down rate"
        ),
        pytest.param(
            replace(SPEC, max_scale_up_rate=1.1, target=1.0),
            {},
            (9, 3),
            2,
            "StableWindow",
            "ScaleUpRate",
            ["9 replicas", "allows 3 with 2"],
            id="up rate",
        ),
        pytest.param(
            replace(SPEC, activation_scale=5),
            {},
            (1, 1),
            0,
            "StableWindow",
            "ActivationScale",
            ["makes it 5"],
            id="activation",
        ),
        pytest.param(
            replace(SPEC, metric="rps", target=140.0),
            {},
            (300, 300),
            3,
            "StableWindow",
            "",
            ["300 requests per second"],
            id="rps",
        ),
    ],
)
def test_the_rule_that_decided(
    spec: DeciderSpec,
    state: dict[str, float],
    loads: tuple[float, float],
    ready: int,
    reason: str,
    bound: str,
    words: list[str],
) -> None:
    """Is named, with the bound that made a difference, and its numbers are in the sentence."""
    stable, panic = loads
    decision, _ = decide(spec, DeciderState(**state), stable=stable, panic=panic, ready=ready, now=100.0)
    assert (decision.rule, decision.bound) == (reason, bound)
    why = explain(spec, decision)
    assert why.reason == reason
    assert why.text.endswith(".")
    for word in words:
        assert word in why.text


def test_a_delay_that_holds_is_named_with_what_it_holds_back() -> None:
    """What would be wanted without it is in the decision."""
    spec = replace(SPEC, scale_down_delay=900.0)
    _, state = decide(spec, DeciderState(), stable=400, panic=400, ready=6, now=100.0)
    decision, _ = decide(spec, state, stable=10, panic=10, ready=6, now=200.0)
    assert (decision.desired, decision.undelayed, decision.rule) == (6, 3, "ScaleDownDelay")
    text = explain(spec, decision).text
    assert "900 s" in text
    assert "3 replicas" in text


def test_before_the_first_report() -> None:
    """Nothing is known, and that is said."""
    assert explain(SPEC, first_decision(SPEC, 0)).reason == "NothingKnown"


def decided(stable: float, ready: int = 4):
    return decide(SPEC, DeciderState(), stable=stable, panic=stable, ready=ready, now=100.0)[0]


def test_equal_decisions_are_one_entry() -> None:
    """With how often and how long, so that an idle night doesn't push out what came before it."""
    history = History()
    history.decided(SPEC, decided(400), 10.0)
    for moment in range(12, 1012, 2):
        history.decided(SPEC, decided(0), float(moment))
    first, idle = history.describe(1020.0)
    assert (first["times"], first["stable"], first["secondsAgo"]) == (1, 400, 1010.0)
    assert (idle["times"], idle["overSeconds"], idle["secondsAgo"]) == (500, 998.0, 10.0)


def test_what_was_made_of_a_decision_stands_after_it() -> None:
    """A scale between two equal decisions keeps them apart."""
    history = History()
    history.decided(SPEC, decided(400), 10.0)
    history.scaled(3, Explanation("MaxScale", "At most 3."), 10.5)
    history.decided(SPEC, decided(400), 12.0)
    entries = list(history.describe(12.0))
    assert [entry["kind"] for entry in entries] == ["decision", "scale", "decision"]
    assert entries[1] == {"kind": "scale", "secondsAgo": 1.5, "scale": 3, "reason": "MaxScale", "text": "At most 3."}


def test_the_last_hundred_are_kept() -> None:
    """However many there were."""
    history = History()
    for number in range(3 * SIZE):
        history.decided(SPEC, decided(float(number)), float(number))
    entries = list(history.describe(1000.0))
    assert len(entries) == SIZE
    assert entries[0]["stable"] == 2 * SIZE
