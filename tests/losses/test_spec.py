"""Loss expressions: parsed, checked and refused without running anything."""

import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.errors import UsageError
from segtrain.losses.spec import balancing_weights, parse_loss

MEDIAN = {"weight": "median-frequency"}


def written(terms) -> list[tuple]:
    """Return weight, name, arguments as written, and inner loss of each term."""
    return [(t.weight, t.name, t.given, *(written([t.inner]) if t.inner else [])) for t in terms]


@pytest.mark.parametrize(
    "expression, terms",
    [
        ("ce", [(1, "ce", {})]),
        (" ohem ( thresh = 0.7 ) ", [(1, "ohem", {"thresh": 0.7})]),
        ("2*ce", [(2, "ce", {})]),
        ("ce*2", [(2, "ce", {})]),
        ("ohem+0.5*dice", [(1, "ohem", {}), (0.5, "dice", {})]),
        ("ohem(focal(gamma=1), thresh=0.6)",
         [(1, "ohem", {"thresh": 0.6}, (1, "focal", {"gamma": 1}))]),
        ("ce(weight=median-frequency)", [(1, "ce", MEDIAN)]),
        ("dice(classes=present, squared=True)",
         [(1, "dice", {"classes": "present", "squared": True})]),
        ("ce(weight=[1, 2.5])", [(1, "ce", {"weight": [1, 2.5]})]),
        ("lovasz(per_image=false)", [(1, "lovasz", {"per_image": False})]),
        ("tversky(alpha=1, beta=2)*.5 + ghm() + 3*ce",
         [(0.5, "tversky", {"alpha": 1, "beta": 2}), (1, "ghm", {}), (3, "ce", {})]),
    ],
)  # fmt: skip
def test_reads_weighted_sums(expression, terms):
    spec = parse_loss(expression)
    assert written(spec.terms) == terms
    assert str(spec) == expression
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("true", ["true", "True", "TRUE"])
def test_true_has_one_spelling_in_a_term(true):
    (term,) = parse_loss(f"ohem(focal, per_image={true})").terms
    assert term.arguments.per_image is True
    assert str(term) == "ohem(focal, per_image=True)"


SHARES = st.floats(1e-6, 1) | st.just(1)
WEIGHTS = st.lists(st.floats(0.1, 9), min_size=1, max_size=3)
INNER = [
    st.builds("focal(gamma={})".format, st.floats(0, 1e6) | st.integers(0, 9)),
    st.builds("ce(weight={}, label_smoothing={})".format, WEIGHTS, SHARES),
    st.just("ghm"),
]
OUTER = [
    st.builds("ohem({}, thresh={})".format, st.one_of(INNER), SHARES),
    st.builds("topk(keep={}, weight={})".format, SHARES, WEIGHTS),
    st.just("dice(classes='present', squared=True)"),
]
TERMS = st.builds("{}*{}".format, st.floats(0, 1e6), st.one_of(INNER + OUTER))


@settings(max_examples=40, deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=4).map(" + ".join))
def test_reads_what_was_written(expression):
    terms = parse_loss(expression).terms
    assert parse_loss(" + ".join(map(str, terms))).terms == terms


@pytest.mark.parametrize(
    "expression",
    [
        "", "ohem(", "ohem dice", "2", "2*3", "2*3*ce", "ce-dice", "-ce", "ce/2", "ce**2",
        "ce*dice", "0.5*(ce+dice)", "ohem(0.7)", "ohem(*x)", "ohem(**{'thresh': 1})",
        "ohem(thresh=x.y)", "ohem(ce, dice)", "ohem(2*ce)", "ohem(ce+dice)", "losses.ce",
        "losses.ce()", "ce()()", "'ce'", "[ce]",
        "ce if 1 else dice", "lambda: ce", "ohem(thresh={[]: 1})",
        "True*ce", "1e999*ce", "ohem(thresh=0.1, thresh=0.2)", "ce\0",
        pytest.param("(" * 300 + "ce" + ")" * 300, id="deep"),
        pytest.param("ce" + "+ce" * 3000, id="long"),
    ],
)  # fmt: skip
def test_refuses_all_else_in_one_line(expression):
    with pytest.raises(UsageError, match="is not a loss expression; write for example ohem"):
        parse_loss(expression)


@pytest.mark.parametrize(
    "expression",
    ["__import__('pathlib').Path('ran').touch()", "ohem(thresh=__import__('os').mkdir('ran'))",
     "open('ran', 'w')", "(ran := open('ran', 'w'))"],
)  # fmt: skip
def test_runs_nothing(expression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        parse_loss(expression)
    assert not (tmp_path / "ran").exists()


def test_checks_all_arguments_without_torch():
    script = (
        "import sys; from segtrain.losses.spec import parse_loss; "
        "spec = parse_loss('ohem(focal, weight=inverse-sqrt)+vgg(weights=none)'); "
        "spec.with_class_weights([3, 1], [4, 4]).check_classes(2); "
        "print({'torch', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_settings_fill_the_terms_that_do_not_give_their_own():
    spec = parse_loss("ohem+ohem(thresh=0.2)+ce", thresh=0.9, n_min_factor=4)
    first, second = (term.arguments for term in spec.terms[:2])
    assert (first.thresh, first.n_min_factor) == (0.9, 4)
    assert (second.thresh, second.n_min_factor) == (0.2, 4)
    assert str(spec) == "ohem+ohem(thresh=0.2)+ce"
    assert spec.takes("thresh") and not parse_loss("topk+ce").takes("thresh")


@pytest.mark.parametrize(
    "given, earlier, written",
    [
        ("ohem+dice", None, "ohem + dice(classes='present')"),
        ("ohem + 2*tversky(alpha=1)", None, "ohem + 2.0*tversky(alpha=1, classes='present')"),
        ("dice(classes=all)", None, "dice(classes=all)"),
        ("ohem +lovasz+cldice", None, "ohem +lovasz+cldice"),
        ("ohem+dice", "ohem+dice", "ohem + dice(classes='all')"),
        ("jaccard(smooth=1)", "jaccard(smooth=1)", "jaccard(smooth=1, classes='all')"),
        ("dice", "dice(classes=present)", "dice(classes='present')"),
        ("dice(classes=all)", "dice(classes=present)", "dice(classes=all)"),
        ("dice+jaccard", "dice(classes=present) + jaccard",
         "dice(classes='present') + jaccard(classes='all')"),
        ("dice", "ce+dice", "dice(classes='present')"),  # another loss, which a resume refuses
    ],
)  # fmt: skip
def test_defaults_that_have_changed_are_written_out(given, earlier, written):
    spec = parse_loss(given).with_defaults(earlier and parse_loss(earlier))
    assert str(spec) == written
    assert [t.arguments for t in spec.terms] == [t.arguments for t in parse_loss(written).terms]


def test_one_device_is_needed_where_a_batch_is_one_image():
    assert "per_image" in parse_loss("ce+lovasz(per_image=False)").one_device
    assert parse_loss("ce+lovasz").one_device is None


@pytest.mark.parametrize(
    "given, resolved",
    [
        ("ce(weight=median-frequency)", "ce(weight=[0.5, 1.0, 1.5, 0.0])"),
        ("0.5*ohem(ce(weight=median-frequency), thresh=0.60) + dice(classes=present)",
         "0.5*ohem(ce(weight=[0.5, 1.0, 1.5, 0.0]), thresh=0.6) + dice(classes='present')"),
        ("topk(keep=3, weight=inverse-sqrt)", "topk(keep=3, weight=[0.6168, 0.8723, 1.511, 0.0])"),
        (" ohem(thresh=0.60) ", " ohem(thresh=0.60) "),
        ("ce(weight=[1, 2,3, 4])", "ce(weight=[1, 2,3, 4])"),
    ],
)  # fmt: skip
def test_balancing_by_name_becomes_numbers(given, resolved):
    # pixels of the classes, and of the masks that have them; the last class is nowhere
    pixels, where_present = [600, 300, 100, 0], [1000, 1000, 500, 0]
    spec = parse_loss(given).with_class_weights(pixels, where_present)
    spec.check_classes(4)
    assert str(spec) == resolved
    again = parse_loss(resolved)
    assert [term.arguments for term in again.terms] == [term.arguments for term in spec.terms]


def test_balancing_weights_by_hand():
    pixels, where_present = [600, 300, 100, 0], [1000, 1000, 500, 0]
    assert balancing_weights("median-frequency", pixels, where_present) == pytest.approx(
        [0.3 / 0.6, 1, 0.3 / 0.2, 0]
    )
    raw = [600**-0.5, 300**-0.5, 100**-0.5]
    assert balancing_weights("inverse-sqrt", pixels, where_present) == pytest.approx(
        [w * 3 / sum(raw) for w in raw] + [0]
    )
