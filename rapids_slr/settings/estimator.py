"""scikit-learn's protocol for estimators, without its import, which costs more than all else that they need."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, Self

from rapids_slr.settings.keys import keys_of

WIDTH = 80
"""Characters of a line of `repr`, as in scikit-learn."""


class Estimator:
    """What `clone`, `Pipeline`, `check_is_fitted` and the like ask of an estimator, beside its `fit`.

    The settings are the arguments of `__init__`, which keeps them under their names and does no more. The docstring of
    a class made from a declaration of keys lists them.
    """

    estimator_type: str | None = None
    """As scikit-learn's tag, such as `clusterer`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if vars(cls).get("__doc__") and hasattr(cls, "__dataclass_fields__"):
            summary, gap, rest = inspect.cleandoc(vars(cls)["__doc__"]).partition("\n\n")
            keys = [_filled(f"    {name}: {key.meaning}", 120, " " * 8) for name, key in keys_of(cls).items()]
            cls.__doc__ = "\n".join([summary, "", "Args:", *keys]) + gap + rest

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; `deep` is for estimators that hold others."""
        return {name: getattr(self, name) for name in sorted(self._defaults())}

    def set_params(self, **params: Any) -> Self:
        """Change settings; what was fitted or remembered stays.

        Raises: ValueError naming the first that is none.
        """
        valid = list(self.get_params())
        for name, value in params.items():
            if name not in valid:
                raise ValueError(f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: {valid!r}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """The class with the settings that are not at their default."""
        defaults = self._defaults()
        # By repr, as scikit-learn does: NaN equals itself, and an array is neither true nor false.
        changed = [f"{key}={it!r}" for key, it in self.get_params().items() if repr(it) != repr(defaults[key])]
        head = f"{type(self).__name__}("
        return _filled(f"{head}{', '.join(changed)})", WIDTH, " " * len(head))

    def __sklearn_tags__(self) -> Any:  # whoever asks has scikit-learn imported
        from sklearn.utils import Tags, TargetTags

        return Tags(
            estimator_type=self.estimator_type,
            target_tags=TargetTags(required=False),
            transformer_tags=None,
            classifier_tags=None,
            regressor_tags=None,
        )

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]  # without self
        return {argument.name: argument.default for argument in arguments}


def _filled(text: str, width: int, indent: str) -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
