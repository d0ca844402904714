"""Several labelled sources: joined without sharing identities or cameras, in specs, checks and runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rapids_slr import run
from rapids_slr.cli import main
from rapids_slr.data.domain import answerable, joined
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.data.read import read_domain
from rapids_slr.errors import InputError
from rapids_slr.hosts.pretraining import pretrain_epoch
from rapids_slr.settings.spec import DomainSpec, RunSpec, SynthSpec
from rapids_slr.settings.specfile import SpecError, dump_spec, load_spec
from tests.data.handmade import MARKET, make_files
from tests.test_run import changed


def test_identities_and_cameras_are_never_shared(tmp_path):
    names = [name for name in MARKET if "train" in name]
    one, other = (read_domain(DomainSpec(path=str(make_files(tmp_path / name, names)))) for name in ("one", "other"))
    assert_array_equal(one.train.identities, [2, 2, 10])
    both = joined([one, other])
    assert_array_equal(both.train.identities, [1, 1, 2, 3, 3, 4])
    assert_array_equal(both.train.cameras, [1, 2, 3, 4, 5, 6])
    assert both.train.identities.dtype == both.train.cameras.dtype == np.int32
    assert [name.partition("/")[0] for name in both.train.names] == ["1"] * 3 + ["2"] * 3
    for number, domain in enumerate((one, other)):
        for row, name in enumerate(domain.train.names):
            with both.open(both.train.names[3 * number + row]) as image, domain.open(name) as own:
                assert image.tobytes() == own.tobytes()


def test_those_that_are_tested_are_tested_together():
    one, other = (synth_domain(SynthSpec(identities=3, images=4, seed=seed, height=32, width=16)) for seed in (0, 1))
    both = joined([one, other])
    assert both.is_tested
    for name in ("query", "gallery"):
        first, second = one.split(name), other.split(name)
        assert len(both.split(name)) == len(first) + len(second)
        assert_array_equal(answerable(both.query, both.gallery)[: len(one.query)], answerable(one.query, one.gallery))
        apart = both.split(name).identities[: len(first)], both.split(name).identities[len(first) :]
        assert not set(apart[0]) & set(apart[1])
    # Who is in the training and in the test keeps one number.
    assert len(set(both.query.identities) & set(both.gallery.identities)) == len(
        set(one.query.identities) & set(one.gallery.identities)
    ) + len(set(other.query.identities) & set(other.gallery.identities))


@pytest.fixture
def several(tiny) -> RunSpec:
    """Two drawn sources, of 6 and 4 people."""
    drawn = tiny.data.source.synth.model_dump()
    sources = [{"synth": drawn}, {"synth": {**drawn, "seed": 7, "identities": 4}}]
    return changed(tiny, data={"source": sources})


def test_pretraining_learns_the_people_of_all(several, tmp_path, monkeypatch):
    seen = []

    def watched(network, optimizer, source, labels_S, *rest):
        seen.append((len(source), len(labels_S.unique())))
        return pretrain_epoch(network, optimizer, source, labels_S, *rest)

    monkeypatch.setattr(run, "pretrain_epoch", watched)
    spec = changed(several, training={"epochs": 1, "source": {"identities": 4}}, clusters={"source_weight": 0.1})
    out = run.train(spec, tmp_path / "run")
    assert seen == [(48 + 32, 10)] * 2
    assert "loss/source_triplet" in json.loads((out / "metrics.jsonl").read_text())
    assert load_spec(out / "spec.yaml") == spec


def test_a_list_of_one_is_that_one(tiny, tmp_path):
    alone = run.pretrain(tiny, tmp_path / "alone")
    listed = run.pretrain(changed(tiny, data={"source": [tiny.data.source.model_dump()]}), tmp_path / "listed")
    read = [(folder / "pretrain.jsonl").read_text().splitlines() for folder in (alone, listed)]
    one, other = ([json.loads(line)["loss/ce"] for line in lines] for lines in read)
    assert one == other


def test_a_source_without_identities_is_named_before_anything_trains(several, tmp_path):
    crops = make_files(tmp_path / "crops", [f"bounding_box_train/{number}.png" for number in range(3)])
    sources = [*several.model_dump()["data"]["source"], {"path": str(crops)}]
    with pytest.raises(InputError, match=r"data\.source: crops tells no identity of its images"):
        run.train(changed(several, data={"source": sources}), tmp_path / "run")
    assert not (tmp_path / "run/pretrain.jsonl").exists()


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ("[{path: a}, {layout: market1501}]", "data.source[1]: give either path (a folder or .zip) or synth"),
        ("[{path: a, lyout: x}]", "data.source[0].lyout: unknown key; did you mean data.source.layout?"),
        ("[]", "data.source: should have at least 1 item"),
        ("[3]", "data.source[0]: expected a section of settings, got 3"),
    ],
)
def test_faults_of_a_list_name_their_place(tmp_path, sources, fault):
    (tmp_path / "spec.yaml").write_text(f"data: {{source: {sources}, target: {{path: b}}}}")
    with pytest.raises(SpecError) as raised:
        load_spec(tmp_path / "spec.yaml")
    assert fault in str(raised.value)


def test_a_list_comes_back_from_its_file_and_may_be_set(several, tmp_path):
    text = dump_spec(several)
    assert "null" not in text
    (tmp_path / "spec.yaml").write_text(text)
    assert load_spec(tmp_path / "spec.yaml") == several
    one = load_spec(tmp_path / "spec.yaml", ["data.source.path=a.zip"])
    assert [source.path for source in one.data.sources] == ["a.zip"]
    two = load_spec(tmp_path / "spec.yaml", ["data.source=[{path: a.zip, synth: none}, {path: b.zip}]"])
    assert [source.path for source in two.data.sources] == ["a.zip", "b.zip"]


def test_data_check_looks_at_every_source(several, tmp_path, capsys):
    folder = tmp_path / "two"
    write_domain(synth_domain(several.data.sources[1].synth), folder)
    sources = [several.model_dump()["data"]["source"][0], {"path": str(folder)}]
    (tmp_path / "spec.yaml").write_text(dump_spec(changed(several, data={"source": sources})))
    assert main(["data", "check", str(tmp_path / "spec.yaml")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("source 1", "source 2", "target"))
    next((folder / "bounding_box_train").iterdir()).rename(folder / "bounding_box_train" / "nobody.png")
    assert main(["data", "check", str(tmp_path / "spec.yaml"), "--no-decode"]) == 2
