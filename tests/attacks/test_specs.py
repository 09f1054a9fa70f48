"""Attacks as text, their settings, names and labels."""

import dataclasses
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from tfadv import attacks
from tfadv.attacks import APGD, ATTACKS, FAB, PGD, WITHOUT_EPS, Attack, AutoAttack, parse, split_specs
from tfadv.errors import UserError


def test_a_list_is_split():
    assert split_specs("fgsm, pgd(steps=50,restarts=5),autoattack( norm = l2 )") == [
        ("fgsm", {}),
        ("pgd", {"steps": 50, "restarts": 5}),
        ("autoattack", {"norm": "l2"}),
    ]
    assert split_specs("") == [] and split_specs("pgd()") == [("pgd", {})]


@pytest.mark.parametrize(
    "text, value",
    [
        *(("50", 50), ("-3", -3), ("0.5", 0.5), (".5", 0.5), ("1e-3", 0.001), ("2/255", 2 / 255), ("0.5/4", 0.125)),
        *(("true", True), ("false", False), ("none", None), ("l2", "l2"), ("least-likely", "least-likely")),
        ("apgd-ce+square", "apgd-ce+square"),
    ],
)
def test_values(text, value):
    ((_, settings),) = split_specs(f"pgd(steps={text})")
    assert settings == {"steps": value} and type(settings["steps"]) is type(value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("pgdd", "unknown attack 'pgdd': did you mean 'pgd'"),
        ("pgd,,fgsm", "cannot read"),
        ("pgd,", "cannot read"),
        ("pgd(steps=5", "cannot read"),
        ("pgd(steps)", "cannot read 'steps'"),
        ("pgd(steps=5)restarts", "cannot read"),
        ("pgd(steps=5,steps=6)", "given twice"),
        ("pgd(steps=)", "value"),
        ("pgd(step_size=1/0)", "cannot be represented"),
        ("pgd(step_size=1/2/3)", "cannot read the value"),
        ("pgd(norm=l2;)", "cannot read the value"),
        ("pgd@0.1,0.2", r"join sizes by \+, as in pgd@0.1\+0.2"),
    ],
)
def test_bad_text(text, words):
    with pytest.raises(UserError, match=words):
        split_specs(text)


@pytest.mark.parametrize(
    "text, words",
    [
        ("pgd(stepz=5)", "pgd has no setting 'stepz': did you mean 'steps'. pgd accepts .*steps"),
        ("pgd(steps=0)", "steps must be a whole number of at least 1, got 0.*pgd accepts"),
        ("pgd(steps=1.5)", "steps must be a whole number"),
        ("pgd(steps=many)", "steps must be a whole number"),
        ("pgd(steps=true)", "steps must be a whole number"),
        ("pgd(steps=99999999999)", "steps must be a whole number"),
        ("hopskipjump(norm=l1)", "unknown norm 'l1': did you mean"),
        ("pgd(steps=1+2)", "steps must be a whole number"),
        ("pgd(norm=1+2)", "norm must be a word"),
        ("autoattack(attacks=1+2)", "unknown attack '1.0'"),
        ("pgd(norm=2)", "norm must be a word"),
        ("pgd(loss=dlr-t)", "unknown loss"),
        ("pgd(early_stop=1)", "early_stop must be true or false"),
        ("pgd(step_size=-1)", "step_size must be a finite number above 0"),
        ("pgd(step_size=1e999)", "step_size=1e999: this number cannot be represented"),
        ("pgd(targeted=true)", "only from Python"),
        ("fgsm(eps=0.1)", "fgsm has no setting 'eps'.*fgsm accepts precision"),
        ("fab(precision=mixed_bfloat16)", "fab has no setting 'precision'"),
        ("fab-t(precision=mixed_bfloat16)", "fab-t has no setting 'precision'"),
        ("fgsm(targeted=true)", "only from Python"),
        ("apgd-ce(loss=dlr)", "it is another attack, apgd-dlr"),
        ("apgd-ce(loss=cw)", "it is another attack"),
        ("fab(targets=3)", r"another attack, fab-t\(targets=3\)"),
        ("fab-t(targets=0)", "another attack, fab"),
        ("autoattack(attacks=pgd)", "unknown attack 'pgd'"),
        ("fgsm,pgd", "names 2 attacks"),
        ("", "names 0 attacks"),
    ],
)
def test_bad_settings(text, words):
    with pytest.raises(UserError, match=words) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_attacks_without_eps_are_named():
    """The command line knows them before TensorFlow is imported."""
    assert {name for name in ATTACKS if not ATTACKS[name]().has_eps} == WITHOUT_EPS


def test_parse():
    assert parse("pgd(steps=50, step_size=2/255)") == PGD(steps=50, step_size=2 / 255)
    assert parse("apgd-t(norm=l2)") == APGD(loss="dlr-t", norm="l2")
    assert parse("fab") == FAB() and parse("fab-t") == FAB(targets=9) and parse("fab-t(targets=3)") == FAB(targets=3)
    assert parse("autoattack(attacks=apgd-ce+square)") == AutoAttack(attacks=("apgd-ce", "square"))
    assert parse("pgd(step_size=none, early_stop=false)") == PGD(early_stop=False)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_names_labels_and_settings(name):
    attack = parse(name)
    assert attack.name == attack.label == name
    assert hash(attack) == hash(parse(name)) and attack == parse(name)
    assert set(attack.settings()) == {field.name for field in dataclasses.fields(attack)}


def test_labels_tell_what_differs_from_the_defaults():
    assert PGD(steps=50, restarts=5).label == "pgd(restarts=5, steps=50)"
    assert APGD(loss="dlr-t", targets=3).label == "apgd-t(targets=3)"
    assert FAB(targets=3, norm="l2").label == "fab-t(norm=l2, targets=3)"
    assert AutoAttack(attacks=["apgd-ce", "fab"]).label == "autoattack(attacks=apgd-ce+fab)"
    assert PGD(early_stop=False, step_size=0.5).label == "pgd(early_stop=false, step_size=0.5)"


SETTINGS = {
    "pgd": {
        "steps": st.integers(1, 2**31 - 1),
        "step_size": st.none() | st.floats(1e-30, 1e9),
        "norm": st.sampled_from(["linf", "l2"]),
        "early_stop": st.booleans(),
    },
    "apgd-t": {"targets": st.integers(1, 10**6), "restarts": st.integers(1, 99)},
    "fab-t": {"targets": st.integers(1, 10**6)},
    "autoattack": {"attacks": st.lists(st.sampled_from(["apgd-ce", "fab", "square"]), min_size=1, unique=True)},
}


@hypothesis.given(data=st.data(), name=st.sampled_from(sorted(SETTINGS)))
def test_a_label_can_be_parsed(data, name):
    attack = ATTACKS[name](**data.draw(st.fixed_dictionaries({}, optional=SETTINGS[name])))
    assert parse(attack.label) == attack


PIECES = ["pgd", "fab", "(", ")", ",", "=", "steps", "norm", "1", "/", "-", "e", "l2", " ", "."]


@hypothesis.given(
    text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join) | st.text().map("pgd(steps={})".format)
)
@hypothesis.example(text="pgd(steps=" + "9" * 5000 + ")")
@hypothesis.example(text="pgd(step_size=1e400/1e400)")
@hypothesis.example(text="pgd(steps=٣)")
def test_any_text_gives_an_attack_or_a_user_error(text):
    try:
        assert all(name in ATTACKS and isinstance(settings, dict) for name, settings in split_specs(text))
    except UserError as error:
        assert str(error)
    try:
        assert isinstance(parse(text), Attack)
    except UserError as error:
        assert str(error)


def test_importing_and_splitting_load_no_tensorflow():
    code = (
        "import sys, tfadv; from tfadv import attacks; attacks.split_specs('pgd(steps=5),fab-t');"
        "assert 'pgd' in attacks.ATTACKS and not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_attack_from_outside(small):
    @dataclasses.dataclass(frozen=True)
    class Shift(attacks.Attack):
        """Adds eps times a factor to all pixels."""

        factor: float = 1.0

        def attack_batch(self, call, x, y, sizes):
            call.cost.add(forwards=len(y))
            return x + 0 * sizes[:, None, None, None, None] * self.factor

    ATTACKS.register("shift", Shift)
    try:
        model, x, y = small
        assert parse("shift(factor=1/2)").label == "shift(factor=0.5)"
        assert parse("shift")(model, x, y, [0.1, 0.2], batch_size=7).shape == (2, *x.shape)
        with pytest.raises(UserError, match="factor must be a finite number"):
            parse("shift(factor=big)")
    finally:
        del ATTACKS._entries["shift"]


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="PDG"):
        attacks.PDG  # noqa: B018
