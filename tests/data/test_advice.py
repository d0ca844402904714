"""Settings that are proposed for a domain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rapids_slr.cli import main
from rapids_slr.data.advice import advice, settings_for
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.settings.spec import SynthSpec
from rapids_slr.settings.specfile import load_spec


@pytest.mark.parametrize("images", [1, 2, 4, 8, 11, 12, 20, 24.5, 300])
def test_what_is_proposed_is_valid_and_below_the_pairs_of_an_identity(images):
    keys = settings_for(images)
    clusters = load_spec("quickstart", [f"clusters.{key}={value}" for key, value in keys.items()]).clusters
    assert {key: getattr(clusters, key) for key in keys} == keys
    assert keys["pairs_per_image"] <= max(1, (images - 1) / 2)


def test_more_images_never_propose_less():
    proposed = [settings_for(images) for images in np.arange(1, 60, 0.5)]
    for before, after in itertools.pairwise(proposed):
        assert all(after[key] >= before[key] for key in before)


def test_check_says_what_fits(tmp_path, capsys):
    spec = SynthSpec(style="target", identities=4, images=10, height=32, width=16)
    domain = synth_domain(spec)
    write_domain(domain, tmp_path / "drawn")
    assert "10 images an identity (median), " in advice(domain)
    main(["data", "check", str(tmp_path / "drawn")])
    said = capsys.readouterr().out
    assert (
        "--set clusters.k1=10 --set clusters.k2=3 --set clusters.pairs_per_image=4 --set clusters.min_samples=3" in said
    )


def test_without_identities_it_says_where_to_read_on(tmp_path, capsys):
    domain = synth_domain(SynthSpec(identities=2, images=4, height=32, width=16))
    for number, row in enumerate(range(4)):
        with domain.open(domain.train.names[row]) as image:
            (tmp_path / "free").mkdir(exist_ok=True)
            image.save(tmp_path / "free" / f"photo{number}.png")
    main(["data", "check", str(tmp_path / "free"), "--layout", "images"])
    assert "one camera; nobody knows how many images an identity has" in capsys.readouterr().out
