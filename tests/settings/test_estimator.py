"""Estimators without scikit-learn's base class, beside the same ones with it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from sklearn.base import BaseEstimator, ClusterMixin, clone, is_clusterer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from rapids_slr import SLR, JaccardDBSCAN
from rapids_slr.clustering.keys import JaccardDBSCANKeys
from rapids_slr.refinement.slr.keys import SLRKeys
from rapids_slr.settings.estimator import Estimator
from rapids_slr.settings.keys import Count

SOME = [
    {},
    {"k1": 9},
    {"k1": 9, "eps": 0.25, "pairs_per_image": None, "search": "approximate", "solver": "graph", "min_size": 17},
    {"k1": 20, "pairs_per_image": 13.0},
]


def with_scikit_learn(name: str, *bases: type) -> type:
    return type(name, bases, {})


THEIRS = with_scikit_learn("JaccardDBSCAN", JaccardDBSCANKeys, ClusterMixin, BaseEstimator)


@pytest.mark.parametrize("settings", SOME)
def test_everything_is_as_with_the_base_class_of_scikit_learn(settings):
    ours, theirs = JaccardDBSCAN(**settings), THEIRS(**settings)
    assert repr(ours) == repr(theirs)
    within, expected = (repr(make_pipeline(Normalizer(), model)).split() for model in (ours, theirs))
    assert within == expected  # lines may break elsewhere
    assert list(ours.get_params().items()) == list(theirs.get_params().items())
    assert get_tags(ours) == get_tags(theirs)
    assert is_clusterer(ours)
    assert clone(ours).get_params() == clone(theirs).get_params() == ours.get_params()
    assert ours.set_params(k2=3, rho=0.5).get_params() == theirs.set_params(k2=3, rho=0.5).get_params()
    with pytest.raises(ValueError, match="Invalid parameter") as fault:
        ours.set_params(min_samples=2, size=3)
    with pytest.raises(ValueError, match="Invalid parameter") as their_fault:
        theirs.set_params(min_samples=2, size=3)
    assert str(fault.value) == str(their_fault.value)
    assert make_pipeline(Normalizer(), ours)._repr_html_()


def test_tags_of_an_estimator_that_is_no_clusterer():
    theirs = with_scikit_learn("SLR", SLRKeys, BaseEstimator)()
    assert get_tags(SLR()) == get_tags(theirs)
    assert not is_clusterer(SLR())


def test_what_is_not_fitted_says_so():
    for call in (check_is_fitted, lambda model: model.labels_at(eps=0.5)):
        with pytest.raises(NotFittedError) as fault:
            call(JaccardDBSCAN())
        assert str(fault.value).startswith("This JaccardDBSCAN instance is not fitted yet. Call 'fit' with appropriate")


def test_two_estimators_with_the_same_settings_are_two():
    assert SLR() != SLR()
    assert len({JaccardDBSCAN(), JaccardDBSCAN()}) == 2


def test_pickles_keep_settings_and_memory():
    slr = SLR(0.3, hard="argmax")
    slr.update([0, 0, 1])
    again = pickle.loads(pickle.dumps(slr))
    assert again.get_params() == slr.get_params()
    assert again.state_dict()["previous"].tolist() == [0, 0, 1]


def test_arguments_by_their_places():
    slr = SLR(0.1, 2, 3, "argmax", "drop", "argmax", "refined", 0.2, 0.3)
    assert (slr.alpha, slr.min_cluster_size, slr.min_samples, slr.hard, slr.outliers) == (0.1, 2, 3, "argmax", "drop")
    assert (slr.noise, slr.memory, slr.merge_distance, slr.min_confidence) == ("argmax", "refined", 0.2, 0.3)
    model = JaccardDBSCAN(1, 2, 3, 0.4, 0.5, 6, 7, 0.8, "approximate", "cuml")
    assert (model.k1, model.k2, model.pairs_per_image, model.rho, model.eps) == (1, 2, 3, 0.4, 0.5)
    assert (model.min_samples, model.min_size, model.source_weight) == (6, 7, 0.8)
    assert (model.search, model.solver) == ("approximate", "cuml")


def test_the_docstring_lists_the_keys_after_its_first_line():
    @dataclass
    class Keys:
        size: Count = 1
        """How large it is."""

    class Drawing(Keys, Estimator):
        """A drawing.

        Drawn by hand.
        """

    assert Drawing.__doc__ == "A drawing.\n\nArgs:\n    size: How large it is.\n\nDrawn by hand."


def test_subclasses_may_have_an_init_of_their_own():
    class Steady(SLR):
        def __init__(self, alpha=0.9, rounds=3):
            super().__init__(alpha=alpha)
            self.rounds = rounds

    assert repr(Steady(rounds=4)) == "Steady(rounds=4)"
    assert clone(Steady(0.8)).get_params() == {"alpha": 0.8, "rounds": 3}
    assert Steady(0.8).update([0, 1]).hard.tolist() == [0, 1]
