from __future__ import annotations

import numpy as np
import pytest

from rapids_slr.data.read import read_domain
from rapids_slr.errors import InputError
from rapids_slr.settings.spec import DomainSpec
from tests.data.handmade import make_files, zip_of

DRAWINGS = [
    f"images_background/{alphabet}/character{c:02d}/{100 * a + c:04d}_{drawer:02d}.png"
    for a, alphabet in enumerate(["Greek", "Old_Norse"])
    for c in range(1, 6)
    for drawer in range(1, 5)
]


def test_half_of_every_alphabet_trains_and_drawers_are_cameras(tmp_path):
    folder = make_files(tmp_path / "root" / "omniglot-py", DRAWINGS).parent
    domain = read_domain(DomainSpec(path=str(folder), layout="omniglot-background"))
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (24, 8, 8)  # 3 of 5 characters train
    for alphabet in ("Greek", "Old_Norse"):
        assert sum(alphabet in name for name in domain.train.names) == 12
    assert not set(domain.train.identities) & set(domain.gallery.identities)
    assert sorted(set(domain.train.cameras)) == [1, 2, 3, 4]
    assert domain.open(domain.query.names[0]).size == (8, 16)
    assert set(np.unique(domain.query.identities, return_counts=True)[1]) == {2}


def test_an_archive_gives_the_same_splits_as_the_folder(tmp_path):
    folder = make_files(tmp_path / "set", DRAWINGS)
    domains = [
        read_domain(DomainSpec(path=str(path), layout="omniglot-background")) for path in (folder, zip_of(folder))
    ]
    assert domains[0].train.names == domains[1].train.names
    assert domains[0].query.names == domains[1].query.names


def test_absent_data_is_downloaded_or_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    def no_network(root, background, download):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.Omniglot", no_network)
    with pytest.raises(InputError, match=r"could not be downloaded \(no route to host\); put images_evaluation\.zip"):
        read_domain(DomainSpec(path=str(tmp_path), layout="omniglot-evaluation"))

    def download(root, background, download):
        make_files(tmp_path / "omniglot-py", DRAWINGS)

    monkeypatch.setattr("torchvision.datasets.Omniglot", download)
    assert len(read_domain(DomainSpec(path=str(tmp_path), layout="omniglot-background")).train) == 24
