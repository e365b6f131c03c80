from __future__ import annotations

import dataclasses

import pytest
from san_export.parity.gates import NAMES, default_gates, make_gates, parse_gates

from san_deploy.artefact import PRECISIONS, Calibration
from san_deploy.errors import UsageError
from tests.tiny_models import tiny_artefact


def test_every_default_is_a_gate_and_no_precision_is_stricter_than_the_one_above() -> None:
    for mask in ("argmax", "ramp:0.0625", "expected", "none", "soft"):
        tables = [default_gates(tiny_artefact(mask=mask, precision=name), mask) for name in PRECISIONS]
        assert all(set(table) <= set(NAMES) for table in tables)
        for name, (at_least, _) in NAMES.items():
            values = [table[name] for table in tables if name in table and name != "preprocess_equal"]
            assert values == sorted(values, reverse=at_least), (mask, name)
        # Something is asked of the rows in any case.
        assert all({"min_cosine", "mean_cosine"} & set(table) for table in tables)


def test_argmax_on_either_side_has_the_gates_of_argmax() -> None:
    smooth = tiny_artefact(mask="expected")
    assert default_gates(smooth, "argmax") == default_gates(tiny_artefact(mask="argmax"), "expected")
    assert default_gates(smooth, "argmax")["min_cosine"] < default_gates(smooth, "expected")["min_cosine"]


def test_the_input_of_int8_is_judged_by_what_the_rest_is() -> None:
    calibration = Calibration(100, "", "", 0, "entropy", "tensorrt")
    plain = tiny_artefact(precision="int8", calibration=calibration)
    half = dataclasses.replace(plain, calibration=dataclasses.replace(calibration, rest="fp16"))
    assert default_gates(plain, "none")["preprocess_equal"] == 0
    assert default_gates(half, "none")["preprocess_equal"] == 2**-10


def test_what_is_asked_replaces_and_off_removes() -> None:
    gates = make_gates(tiny_artefact(), "none", ["norm=0.5", "finite=OFF", "mean-cosine = 0.25"])
    assert gates.asked == {"norm", "finite", "mean_cosine"}
    assert gates.check("finite", 10, "told") == ()
    (norm,) = gates.check("norm", 0.4, "told")
    assert norm.passed and norm.limit == 0.5 and not norm.at_least
    (mean,) = gates.check("mean_cosine", 0.2, "told")
    assert not mean.passed and mean.at_least
    (few,) = gates.check("mean_cosine", 0.2, "told", limit=0.1)
    assert few.passed
    (nothing,) = gates.check("norm", float("nan"), "told")
    assert not nothing.passed


def test_what_the_target_does_not_have_is_not_asked_of_it() -> None:
    for mask in ("none", "soft"):
        with pytest.raises(UsageError, match="flipped cannot be measured"):
            make_gates(tiny_artefact(mask=mask), mask, ["flipped=0.1"])
        make_gates(tiny_artefact(mask=mask), mask, ["flipped=off"])
    with pytest.raises(UsageError, match="unexplained_flips cannot be measured"):
        make_gates(tiny_artefact(mask="ramp:0.0625"), "argmax", ["unexplained_flips=3"])
    make_gates(tiny_artefact(mask="ramp:0.0625"), "argmax", ["flipped=0.1"])
    make_gates(tiny_artefact(mask="argmax"), "argmax", ["unexplained_flips=3"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["top1_agrement=0.9"], "did you mean top1_agreement"),
        (["qqqq=1"], "one of artefact"),
        (["norm"], "NAME=VALUE"),
        (["norm=inf"], "no number"),
        (["norm="], "no number"),
        (["norm=1", "norm=2"], "twice"),
    ],
)
def test_what_is_no_gate(asked: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_gates(asked)
    assert message.lower() in str(error.value).lower()
