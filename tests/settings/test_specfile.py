"""Run specs as text: what is read, what is refused and how, and that nothing is lost on the way back."""

from __future__ import annotations

import shlex

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rapids_slr.clustering.sections import HDBSCANSpec
from rapids_slr.errors import InputError
from rapids_slr.refinement.sections import NoRefinementSpec, SLRSpec
from rapids_slr.settings.spec import RunSpec
from rapids_slr.settings.specfile import (
    SpecError,
    dump_spec,
    embedded_specs,
    load_spec,
    nearest_key,
    spec_differences,
    spec_schema,
    valid_keys,
)

DRAWN = "data: {source: {synth: {style: source}}, target: {synth: {style: target}}}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a spec and give its name; the tests run in its folder, so that messages are short."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "run.yaml") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return name

    return write


def faults_of(*arguments) -> list[str]:
    with pytest.raises(SpecError) as raised:
        load_spec(*arguments)
    assert str(raised.value) == "\n".join(raised.value.faults)
    return raised.value.faults


# Faults --------------------------------------------------------------------------------------------------------------


def test_every_fault_is_named_with_its_line_and_the_nearest_key(write):
    spec = write(DRAWN + "refine:\n  alhpa: 0.7\ntraining: {epochs: 0}\nk1: 20\n")
    assert faults_of(spec) == [
        "run.yaml:3: refine.alhpa: unknown key; did you mean refine.alpha?",
        "run.yaml:4: training.epochs: should be greater than or equal to 1, got 0",
        "run.yaml:5: k1: unknown key; did you mean clusters.k1?",
    ]


def test_faults_of_files_and_overrides_come_together(write):
    spec = write(DRAWN + "name: [a]\n")
    assert faults_of(spec, ["refine.alhpa=0.7", "seed=-1", "nonsense", "clusters.k1=", "clusters.k2=[1"]) == [
        "run.yaml:2: name: expected text, got [a]; put it in quotes if it is meant as text",
        "--set nonsense: expected key=value, such as clusters.k1=20",
        "--set clusters.k1=: clusters.k1: has no value; `clusters.k1=none` leaves out what may be left out",
        "--set clusters.k2=[1: broken YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        "--set seed=-1: seed: should be greater than or equal to 0, got -1",
        "--set refine.alhpa=0.7: refine.alhpa: unknown key; did you mean refine.alpha?",
    ]


def test_a_choice_is_named_alone_or_in_its_section(write):
    alone, section = (load_spec(write(DRAWN + f"clusters: {text}")) for text in ("hdbscan", "{method: hdbscan}"))
    assert alone.clusters == section.clusters == HDBSCANSpec()
    assert load_spec(write(DRAWN + "host: abmt\ntask: {name: reid}\nrefine: {name: none}")).refine == NoRefinementSpec()
    assert load_spec(write(DRAWN + "refine: slr")) == load_spec(write(DRAWN))


def test_keys_of_other_choices_are_checked_and_left_out(write):
    """A spec of 0.1.0 has the keys of both methods side by side."""
    both = "clusters: {method: hdbscan, k1: 15, min_cluster_size: 3, also: [], reliable: none}"
    spec = load_spec(write(DRAWN + both))
    assert spec.clusters == HDBSCANSpec(min_cluster_size=3)
    assert "k1" not in dump_spec(spec)
    assert load_spec(write(DRAWN + both), ["clusters.method=dbscan"]).clusters.k1 == 15
    assert faults_of(write(DRAWN + "clusters: {method: hdbscan, k1: 0}")) == [
        "run.yaml:2: clusters.k1: should be greater than or equal to 1, got 0"
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("clusters: {method: hdbscam}", "clusters.method: should be 'dbscan' or 'hdbscan', got hdbscam"),
        ("host: plain", "host: should be 'abmt', 'cluster_contrast', 'spcl' or 'mmt', got plain"),
        ("refine: {name: 3}", "refine.name: should be 'slr', 'none', 'confident', "),
        ("task: [reid]", "task: expected a section of settings, got [reid]"),
        ("refine: {name: none, alhpa: 1}", "refine.alhpa: unknown key; did you mean refine.alpha?"),
        (
            "clusters: {also: [{branch: middle}]}",
            "clusters.also: branch should be one of both, average, maximum, got middle",
        ),
        ("model: {backbone: resnet}", "model.backbone: should be 'resnet50', "),
    ],
)
def test_a_choice_that_is_none_is_named(write, text, fault):
    (found,) = faults_of(write(DRAWN + text))
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("training: {lr: fast}", "2: training.lr: should be a valid number, got fast"),
        ("training: {epochs: 1.5}", "2: training.epochs: should be a valid integer, got 1.5"),
        ("training: {epochs: true}", "2: training.epochs: should be a valid integer, got true"),
        ("training: {epochs: '3'}", "2: training.epochs: should be a valid integer, got '3'"),
        ("features: {bn_recalibrate: off}", "2: features.bn_recalibrate: should be a valid boolean, got 'off'"),
        ("training: {lr: .nan}", "2: training.lr: should be a finite number, got .nan"),
        ("augment: {flip: 2}", "2: augment.flip: should be less than or equal to 1, got 2"),
        ("device: gpu", "2: device: should be 'auto', 'cpu' or 'cuda', got gpu"),
        ("model: {widths: [24, 0]}", "2: model.widths[1]: should be greater than or equal to 1, got 0"),
        ("training: 5", "2: training: expected a section of settings, got 5"),
        ("training:\n", "2: training: has no value; give one, or leave the key out"),
        ("refine:\n", "2: refine: has no value; give one, or leave the key out"),
        ("seed: 1\nseed: 2", "3: seed: is given twice, first at line 2"),
        ("clusters.k1: 5", "2: clusters.k1: unknown key; write `clusters: {k1: ...}`"),
        ("[1, 2]: 3", "2: a key must be a word"),
        ("name: 2024", "2: name: expected text, got 2024; put it in quotes if it is meant as text"),
        ("name: a/b", r"2: name: should match pattern '^[\w.-]+$', got a/b"),
        ("seed: {a: &x 1}", "2: column 11: broken YAML: anchors, aliases and tags are not read"),
        ("seed: !!python/name:os.system x", "2: column 7: broken YAML: anchors, aliases and tags are not read"),
        ("a: [1\nb: 2", "3: column 2: broken YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: \x07", "2: broken YAML: special characters are not allowed (#x0007)"),
        ("zzz: 1", "2: zzz: unknown key"),
        ("seed: " + "[" * 5000, "1: broken YAML: nested too deeply"),
    ],
)
def test_a_fault_is_named_in_words(write, text, fault):
    (found,) = faults_of(write(DRAWN + text + "\n"))
    assert found.startswith(f"run.yaml:{fault}")


def test_faults_between_keys_stand_at_their_section(write):
    text = "data:\n  source: {synth: {style: source}}\n  target:\n    path: a.zip\n    synth: {style: target}\n"
    (fault,) = faults_of(write(text))
    assert fault.startswith("run.yaml:3: data.target: give either path")
    (fault,) = faults_of(write("data: {target: {path: a.zip}}"))
    assert fault.startswith("run.yaml:1: data.source is missing")
    (fault,) = faults_of(write(DRAWN + "refine: none\nclusters: {also: [{branch: average}]}\n"))
    assert "clusters.also needs refine: slr; with none nothing reads further clusterings" in fault
    (fault,) = faults_of(write(DRAWN + "clusters: {method: hdbscan, also: [{eps: 0.5}]}\n"))
    assert "also needs method: dbscan" in fault
    (fault,) = faults_of(write(DRAWN + "clusters: {method: hdbscan, reliable: {}}\n"))
    assert "reliable needs method: dbscan" in fault
    (fault,) = faults_of(write(DRAWN + "clusters: {method: hdbscan, cameras: centre}\n"))
    assert "cameras: centre needs method: dbscan" in fault


def test_faults_in_a_list_name_their_place(write):
    (fault,) = faults_of(write(DRAWN + "clusters: {also: [{eps: 0.5}, {epz: 0.5}]}\n"))
    assert fault.endswith("clusters.also[1].epz: unknown key; did you mean clusters.also.eps?")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_spec_misses_its_data(write, text):
    assert faults_of(write(text)) == ["run.yaml:1: data: is missing"]


@pytest.mark.parametrize("text", ["just text", "- a list"])
def test_a_file_without_keys_is_refused(write, text):
    assert "expected settings, `key: value`" in faults_of(write(text))[0]


def test_a_file_that_is_no_text_is_refused(write, tmp_path):
    name = write("")
    (tmp_path / name).write_bytes(b"PK\x03\x04\xff\xfe")
    assert faults_of(name) == ["run.yaml:1: is not UTF-8 text (byte 4); is it a spec?"]


def test_a_missing_file_names_what_there_is(tmp_path):
    with pytest.raises(InputError, match=r"omniglott: no such spec file; embedded .*; did you mean omniglot\?"):
        load_spec("omniglott")
    with pytest.raises(InputError, match=r"is a folder; give the spec file in it"):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("refine.alhpa", "refine.alpha"),
        ("training.epoch", "training.epochs"),
        ("pretrain.epoch", "pretrain.epochs"),
        ("clustering", "clusters"),
        ("training.k1", "clusters.k1"),
        ("data.target.paht", "data.target.path"),
        ("xyzzy", None),
    ],
)
def test_the_nearest_key_is_the_likely_one(wrong, meant):
    assert nearest_key(wrong) == meant


@given(st.sampled_from(valid_keys()), st.data())
def test_a_key_with_two_letters_swapped_finds_its_like(key, data):
    start = key.rfind(".") + 1
    at = data.draw(st.integers(start, max(start, len(key) - 2)))
    found = nearest_key(key[:at] + key[at : at + 2][::-1] + key[at + 2 :])
    assert found == key or len(key) - start < 5  # two letters are too much of a short word


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("3.5e-4", 3.5e-4), ("1e-3", 1e-3), ("1E2", 100.0), (".5", 0.5), ("2", 2.0)]
)
def test_numbers_are_read_as_people_write_them(write, text, value):
    assert load_spec(write(DRAWN + f"training: {{lr: {text}}}")).training.lr == value


@pytest.mark.parametrize("word", ["no", "off", "010x", "1:30", "2024-01-01", "e3"])
def test_words_stay_words(write, word):
    spec = write(DRAWN.replace("synth: {style: source}", f"path: {word}"))
    assert load_spec(spec).data.source.path == word


def test_none_leaves_out_what_may_be_left_out(write):
    spec = load_spec(
        write(DRAWN + "refine: {hard: none, min_samples: none}\nclusters: {pairs_per_image: none, rho: 0.1}")
    )
    assert spec.refine.hard == "none"
    assert spec.refine.min_samples is None
    assert spec.clusters.pairs_per_image is None
    assert load_spec(write(DRAWN + "refine: none")).refine == NoRefinementSpec()
    assert load_spec(write(DRAWN + "refine: null")).refine == NoRefinementSpec()


# Overrides and extends -----------------------------------------------------------------------------------------------


def test_overrides_change_single_keys_and_the_later_wins(write):
    spec = load_spec(write(DRAWN), ["clusters.k1=7", "clusters.k1=9", "model.widths=[4, 8, 8]", "training={epochs: 2}"])
    assert (spec.clusters.k1, spec.clusters.k2) == (9, 6)
    assert spec.model.widths == [4, 8, 8]
    assert (spec.training.epochs, spec.training.iterations) == (2, 400)
    assert load_spec(write(DRAWN), ["refine=none"]).refine == NoRefinementSpec()
    assert load_spec(write(DRAWN + "refine: none"), ["refine.alpha=0.7"]).refine == SLRSpec(alpha=0.7)


def test_a_path_takes_the_place_of_a_drawn_domain_and_back(write):
    spec = load_spec(write(DRAWN), ["data.target.path=a=b.zip"])
    assert (spec.data.target.path, spec.data.target.synth) == ("a=b.zip", None)
    write(dump_spec(spec), "paths.yaml")
    assert load_spec("paths.yaml", ["data.target.synth={style: target}"]).data.target.path is None


def test_extends_merges_section_by_section(write):
    write(DRAWN + "clusters: {k1: 7, k2: 3}\nrefine: none\n", "specs/base.yaml")
    write("extends: base.yaml\nclusters: {k1: 9}\n", "specs/middle.yaml")
    spec = load_spec(write("extends: specs/middle.yaml\nname: top\nrefine: {alpha: 0.3}\n"))
    assert (spec.name, spec.clusters.k1, spec.clusters.k2, spec.refine.alpha) == ("top", 9, 3, 0.3)
    assert load_spec(write("extends: omniglot\nseed: 4")).seed == 4


def test_faults_name_the_file_that_has_them(write):
    write(DRAWN + "clusters: {k1: 0}\n", "base.yaml")
    assert faults_of(write("extends: base.yaml\nclusters: {k3: 9}\n")) == [
        "run.yaml:2: clusters.k3: unknown key; did you mean clusters.k1?",
        "base.yaml:2: clusters.k1: should be greater than or equal to 1, got 0",
    ]


def test_extends_that_leads_nowhere_or_in_a_circle_is_an_error(write):
    write("extends: run.yaml\n", "base.yaml")
    (fault,) = faults_of(write("\nextends: base.yaml\n"))
    assert fault.startswith("base.yaml:1: extends: goes in a circle: ")
    assert faults_of(write("extends: gone.yaml\nseed: -1\n")) == [
        f"run.yaml:1: extends: gone.yaml: no such spec file; embedded specs are {', '.join(sorted(embedded_specs()))}",
        "run.yaml:2: seed: should be greater than or equal to 0, got -1",
    ]
    (fault,) = faults_of(write("extends: [a, b]\n"))
    assert fault == "run.yaml:1: extends: expected the name of one spec, got [a, b]"


# Embedded specs, and the way back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(embedded_specs()))
def test_embedded_specs_are_valid_by_schema_and_by_name(name):
    text = embedded_specs()[name].read_text()
    jsonschema.validate(yaml.safe_load(text), spec_schema())
    assert load_spec(name) == load_spec(f"configs/{name}.yaml")


def test_the_schema_explains_and_refuses(write):
    schema = spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "forgets the past" in schema["$defs"]["SLRSpec"]["properties"]["alpha"]["description"]
    good = {"data": {"target": {"path": "a"}}}
    for changes in ({}, {"refine": "none"}, {"refine": {"min_samples": "none"}}, {"clusters": {"rho": "none"}}):
        jsonschema.validate(good | changes, schema)
    jsonschema.validate({"extends": "omniglot", "data": {"height": 32}}, schema)
    for bad in ({"refine": "nothing"}, {"refine": {"alhpa": 1}}, {"seed": -1}, {"data": {"height": 32}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | bad, schema)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda word: word != "none"
)


@given(
    path=words,
    weights=st.none() | words,
    seed=st.integers(0, 2**70),
    lr=st.floats(0, 10, exclude_min=True),
    pairs=st.none() | st.floats(0, 1e9, exclude_min=True),
    mean=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    refine=st.none()
    | st.builds(SLRSpec, alpha=st.floats(0, 1), hard=st.sampled_from(["hdbscan", "argmax", "dbscan", "none"])),
)
@example(path="1e3", weights="~", seed=0, lr=1e-05, pairs=1e9, mean=[0, 1, 1], refine=None)
@example(path="010", weights="yes", seed=0, lr=5e-324, pairs=13, mean=[0, 1, 1], refine=SLRSpec(hard="none"))
def test_a_dumped_spec_loads_to_the_same(tmp_path_factory, path, weights, seed, lr, pairs, mean, refine):
    spec = RunSpec.model_validate(
        {
            "seed": seed,
            "data": {"source": {"path": path}, "target": {"synth": {}}, "mean": mean},
            "model": {"weights": weights},
            "clusters": {"pairs_per_image": pairs},
            "training": {"lr": lr},
            "refine": refine,
        }
    )
    file = tmp_path_factory.mktemp("dumped") / "spec.yaml"
    file.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(file) == spec


def test_a_dumped_spec_obeys_the_schema(write):
    spec = load_spec(write(DRAWN), ["refine=none"])
    jsonschema.validate(yaml.safe_load(dump_spec(spec)), spec_schema())


def test_differences_are_named_by_their_keys(write):
    one = load_spec(write(DRAWN))
    assert spec_differences(one, one) == []
    other = load_spec(write(DRAWN), ["clusters.k1=7", "refine=none", "data.target.synth.gap=0"])
    assert spec_differences(one, other) == ["data.target.synth.gap", "clusters.k1", "refine"]


# Words of the command line, and homes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/data/run #3/m.zip", "#5", "a: b", "- a", "*x", "&x", "!x", "| x", "> x", "%x", "@x", "`x`", "a, b", "x ",
        " x", "[old] run/m.zip", "[a]", "{host}/m.zip", "{a: b}", "it's", '"a" and "b"', "a\tb", "a\nb",
        "?", "---", "...",
    ],
)  # fmt: skip
def test_a_word_of_set_is_one_value(write, path):
    assert load_spec(write(DRAWN), [f"data.target.path={path}"]).data.target.path == path


def test_no_word_of_set_is_passed_over(write):
    spec = write(DRAWN)
    assert faults_of(spec, ["training.epochs=#5"]) == [
        "--set training.epochs=#5: training.epochs: should be a valid integer, got '#5'"
    ]
    assert faults_of(spec, ["training.epochs=3 # for now"])[0].endswith("should be a valid integer, got '3 # for now'")
    assert load_spec(spec, ["training.epochs= 3", "refine=none", "training.lr=1e-3"]).training.epochs == 3


def test_the_advice_on_quotes_works_in_a_shell(write):
    spec = write(DRAWN)
    (fault,) = faults_of(spec, ["name=123"])
    assert fault == "--set name=123: name: expected text, got 123; if it is meant as text: --set 'name=\"123\"'"
    advised = shlex.split(fault.rpartition(": ")[2])[1]
    assert load_spec(spec, [advised]).name == "123"
    (fault,) = faults_of(spec, ["data.target.path=1e3"])
    assert load_spec(spec, [shlex.split(fault.rpartition(": ")[2])[1]]).data.target.path == "1e3"


def test_a_home_is_meant_by_its_sign(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(DRAWN, "home/base.yaml")
    sets = ["data.target.path=~/m.zip", "pretrain.checkpoint=~/a.pt", "model.weights=~/w.pth"]
    spec = load_spec(write("extends: ~/base.yaml\n"), sets)
    assert spec.data.target.path == f"{tmp_path}/home/m.zip"
    assert (spec.pretrain.checkpoint, spec.model.weights) == (f"{tmp_path}/home/a.pt", f"{tmp_path}/home/w.pth")
    assert load_spec("~/base.yaml") == load_spec("home/base.yaml")
    assert load_spec(write("extends: ~/base.yaml\ndata: {target: {path: ~/m}}\n")).data.target.path.endswith("home/m")
