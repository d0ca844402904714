"""Classification: what nearest neighbours and linear classifiers on the features tell of an image's class.

N labelled images that a classifier learns from, Q images that it is asked about, S images of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rapids_slr.data.domain import Domain
from rapids_slr.data.files import natural_order
from rapids_slr.data.images import Images, Role, RunImages
from rapids_slr.data.layouts import DISTRACTOR, SplitName
from rapids_slr.errors import InputError
from rapids_slr.evaluation import linear_classes, nearest_classes, out_of_fold
from rapids_slr.evaluation.classes import Classifier

NAMED = 5
"""Classes that a line on the screen names."""
Embed = Callable[[Images], Tensor]


@dataclass(frozen=True)
class Labelled:
    """Images and what is on them.

    Attributes:
        class_n: (n,) int64, rows of all parts one after the other; -1 where it is not known, or not one of those asked.
    """

    parts: Sequence[Images]
    class_n: Tensor

    def known(self, embed: Embed) -> tuple[Tensor, Tensor]:
        """Features and classes of the images whose class is known."""
        features_nD = torch.cat([embed(part) for part in self.parts])
        class_n = self.class_n.to(features_nD.device)
        return features_nD[class_n >= 0], class_n[class_n >= 0]


@dataclass(frozen=True)
class Question:
    """Images that a classifier learns from, and those that it is asked about."""

    learnt: Labelled
    asked: Labelled | None
    """None asks about every fold of the images themselves, by what the others teach."""

    def accuracy(self, classifier: Classifier, embed: Embed) -> float:
        """The part of the images that are asked about that get their class."""
        features_ND, class_N = self.learnt.known(embed)
        if self.asked is None:
            return _share(out_of_fold(classifier, features_ND, class_N) == class_N)
        asked_QD, right_Q = self.asked.known(embed)
        return _share(classifier(features_ND, class_N, asked_QD) == right_Q)

    @property
    def images(self) -> list[Images]:
        return [*self.learnt.parts, *(self.asked.parts if self.asked is not None else ())]


@dataclass(frozen=True)
class Test:
    """How a domain tests a network."""

    own: Question | None
    """By its own classes; None where it has no two that are known."""
    by_source: Question | None = None
    """By the classes of the source; None where none of them is known here."""

    @property
    def images(self) -> list[Images]:
        """Every part once."""
        questions = [question for question in (self.own, self.by_source) if question is not None]
        return list({id(part): part for question in questions for part in question.images}.values())


class Classification:
    """Classes of a domain, known by their names; no query, no gallery, no camera.

    A classifier learns from the training images and is asked about the test images of the same classes. Where there are
    none, as the test images are of other classes or lacking, the images whose classes no loss saw are divided into
    folds: the training images of the target, or the test images of the source.
    """

    def __init__(self) -> None:
        self._tests: dict[Role, Test] = {}

    def read(self, images: RunImages, role: Role = "target") -> None:
        self.test(images, role)

    def test_images(self, images: RunImages, role: Role = "target") -> int:
        return sum(len(part.store) for part in self.test(images, role).images)

    def evaluate(self, embed: Embed, images: RunImages, role: Role = "target") -> dict[str, float]:
        """Accuracies as fractions; those of the source's classifier where source and target share classes."""
        test, seen = self.test(images, role), dict[int, Tensor]()

        def once(part: Images) -> Tensor:
            if id(part) not in seen:
                seen[id(part)] = embed(part)
            return seen[id(part)]

        found: dict[str, float] = {}
        if test.own is not None:
            found = {"knn": test.own.accuracy(nearest_classes, once), "linear": test.own.accuracy(linear_classes, once)}
        if test.by_source is not None:
            found["source_classifier"] = test.by_source.accuracy(linear_classes, once)
        elif role == "source" and found:
            found["source_classifier"] = found["linear"]  # its own classes
        return found

    def test(self, images: RunImages, role: Role = "target") -> Test:
        """What tests a network, decoded once; a word on the screen where some images cannot."""
        if role not in self._tests:
            if images.evaluation.rerank:
                raise InputError("evaluation.rerank is for task: reid; leave it out, as classes have no gallery")
            self._tests[role] = _test_of_target(images) if role == "target" else _test_of_source(images)
        return self._tests[role]


def _test_of_target(images: RunImages) -> Test:
    domain, train = images.target_domain, images.target
    tests = _test_parts(images, "target")
    own = _classes_of(domain, [train])
    question = None
    if len(own) > 1:
        test = _labelled(domain, tests, own)
        _say_of_tests(images, domain, tests, own)
        question = Question(_labelled(domain, [train], own), test if _any_known(test) else None)
    if not images.has_source:
        return Test(question)
    source = _classes_of(images.source_domain, [images.source])
    # Classes alone that are asked about: those of the test images, or without any those of the training images.
    asked = next((x for x in (_labelled(domain, parts, source) for parts in (tests, [train])) if _any_known(x)), None)
    _say_of_source(images, source, own or _classes_of(domain, tests), asked is None)
    if asked is None or len(source) < 2:
        return Test(question)
    return Test(question, Question(_labelled(images.source_domain, [images.source], source), asked))


def _test_of_source(images: RunImages) -> Test:
    domain, tests = images.source_domain, _test_parts(images, "source")
    own, tested = _classes_of(domain, [images.source]), _classes_of(domain, tests)
    asked = _labelled(domain, tests, own)
    if len(own) > 1 and _any_known(asked):
        return Test(Question(_labelled(domain, [images.source], own), asked))
    return Test(Question(_labelled(domain, tests, tested), None) if len(tested) > 1 else None)


def _test_parts(images: RunImages, role: Role) -> list[Images]:
    """The test images of a domain, decoded, however its layout divides them; none where no class of them is known."""
    domain = images.domain(role)
    names: tuple[SplitName, ...] = ("query", "gallery")
    return [images.test(name, role) for name in names if (domain.split(name).identities > DISTRACTOR).any()]


def _classes_of(domain: Domain, parts: Iterable[Images]) -> dict[str, int]:
    """Names of the classes of images, numbered from 0 in natural order."""
    known = {int(one) for part in parts for one in np.unique(part.split.identities) if one > DISTRACTOR}
    return {name: number for number, name in enumerate(natural_order(map(domain.name_of, known)))}


def _labelled(domain: Domain, parts: Sequence[Images], number: Mapping[str, int]) -> Labelled:
    """Images with the numbers that the names of their classes have."""
    identity_n = np.concatenate([np.zeros(0, np.int32), *(part.split.identities for part in parts)])
    values, place_n = np.unique(identity_n, return_inverse=True)
    numbers = [number.get(domain.name_of(int(one)), -1) if one > DISTRACTOR else -1 for one in values]
    return Labelled(parts, torch.as_tensor(np.array(numbers, np.int64)[place_n]))


def _any_known(labelled: Labelled) -> bool:
    return bool((labelled.class_n >= 0).any())


def _share(right_n: Tensor) -> float:
    return float(right_n.double().mean())


# What is said of classes ----------------------------------------------------------------------------------------------


def _say_of_tests(images: RunImages, domain: Domain, tests: Sequence[Images], own: Mapping[str, int]) -> None:
    tested = _classes_of(domain, tests)
    other = [name for name in tested if name not in own]
    if other and len(other) < len(tested):
        images.warn(f"{_counted(other)} of the test images have no training images and are left out of kNN and linear")
    elif other:
        images.warn(
            "no class of the test images has training images; kNN and linear are those of the training images, each "
            "fold by the others"
        )


def _say_of_source(images: RunImages, source: Mapping[str, int], target: Mapping[str, int], apart: bool) -> None:
    lacking = [name for name in target if name not in source]
    if apart and target:
        images.warn(
            "source and target have no class in common by its name: there is no score of the source's classifier"
        )
    elif lacking:
        images.warn(
            f"the source lacks {_counted(lacking)} of the target: clustered like all others, and left out of the score "
            "of the source's classifier"
        )


def _counted(names: Sequence[str]) -> str:
    some = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({some})"
