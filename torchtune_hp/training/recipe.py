"""From what a user hands over to a Recipe: `recipe_of`; and keyword arguments for it: `with_parameters`.

    hp.Tuner(hp.with_parameters(train, data=data), ...)        # def train(config, data)
    hp.Tuner(hp.with_parameters(Digits, data_dir="..."), ...)  # setup and data each get the keywords they name

The objects are held by reference: in one process every trial sees the same. They are pickled once, however many workers
there are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ConfigurationError
from .function import FunctionRecipe, TrainFunction, check_takes_config, name_of, tune
from .replicas import Reseeded
from .runner import Recipe
from .trainable import Trainable, TrainableRecipe, check_class

ACCEPTED = (
    "a train function def train(config), decorated with @hp.trainable or plain, a generator function that yields its metrics, "
    "a subclass of hp.Trainable or hp.ModelTrainable, or hp.with_parameters(...) of one of these"
)


class WithParameters:
    """A trainable and keyword arguments for it; called with a config it trains, or builds the object, alone."""

    def __init__(self, target: Any, keywords: dict[str, Any]) -> None:
        self.target = target
        self.keywords = keywords
        self.__name__ = str(getattr(target, "__name__", type(target).__name__))
        self.__doc__ = getattr(target, "__doc__", None)

    @property
    def defaults(self) -> dict[str, Any]:
        """What the decorated function is tuned with by default."""
        return dict(self.target.defaults) if isinstance(self.target, TrainFunction) else {}

    def __call__(self, config: Mapping[str, Any]) -> Any:
        return self.target(config, **self.keywords)

    def tune(self, **keywords: Any) -> Any:
        """Runs a study: `hp.Tuner(self, ...).fit()`."""
        return tune(self, self.defaults, keywords)

    def __repr__(self) -> str:
        return f"with_parameters({self.__name__}, {', '.join(self.keywords)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return WithParameters, (self.target, self.keywords)


def with_parameters(target: Any, /, **keywords: Any) -> WithParameters:
    """`target` with these keyword arguments for every trial: large data sets, folders, anything that is no hyperparameter.

    A train function gets all of them, a Trainable in `setup`, a ModelTrainable in `setup` and `data`, each those it names.
    ConfigurationError lists the keywords that nothing names.
    """
    if isinstance(target, WithParameters):
        target, keywords = target.target, {**target.keywords, **keywords}
    made = WithParameters(target, keywords)
    recipe_of(made)
    return made


def recipe_of(trainable: Any, seeds: int = 1, folds: int | None = None) -> Recipe:
    """The Recipe of anything a user may hand over, of which each trial is trained with so many seeds, on so many folds.

    ConfigurationError for anything else, which says what that is, and for folds of what has no `data()`.
    """
    target, keywords = (trainable.target, trainable.keywords) if isinstance(trainable, WithParameters) else (trainable, {})
    recipe = _recipe(target, keywords)
    if seeds == 1 and folds is None:
        return recipe
    from .model import ModelRecipe

    if isinstance(recipe, ModelRecipe):
        return ModelRecipe(recipe.cls, recipe.keywords, seeds, folds)
    if folds is not None:
        raise ConfigurationError(
            f"folds: cut from what data() of an hp.ModelTrainable gives, but {recipe.name} has none. Subclass hp.ModelTrainable, or train "
            "on all folds within a trial, and report the mean."
        )
    return Reseeded(recipe, seeds)


def _recipe(trainable: Any, keywords: dict[str, Any]) -> Recipe:
    function = trainable.function if isinstance(trainable, TrainFunction) else trainable
    if inspect.isroutine(function) or isinstance(function, functools.partial):
        _check(name_of(function), name_of(function), check_takes_config(function), keywords)
        return FunctionRecipe(function, keywords)
    if not isinstance(trainable, type):
        raise ConfigurationError(f"Expected {ACCEPTED}, but got {_what(trainable)}")
    from .model import ModelRecipe, ModelTrainable

    for base in (Trainable, ModelTrainable):
        if trainable is base:
            raise ConfigurationError(f"hp.{base.__name__} is a base: subclass it, and give the subclass.")
    if issubclass(trainable, ModelTrainable):
        return ModelRecipe(trainable, keywords)
    if issubclass(trainable, Trainable):
        check_class(trainable)
        setup = inspect.signature(trainable.setup)
        setup = setup.replace(parameters=list(setup.parameters.values())[1:])       # without self
        _check(f"{trainable.__name__}.setup", trainable.__name__, setup, keywords)
        return TrainableRecipe(trainable, keywords)
    raise ConfigurationError(f"Expected {ACCEPTED}, but got {_what(trainable)}")


def _check(where: str, target: str, signature: inspect.Signature, keywords: Mapping[str, Any]) -> None:
    """Each keyword is named by `where`, and each argument it needs besides the config is given."""
    parameters = list(signature.parameters.values())[1:]
    named = [parameter for parameter in parameters if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
    names = [parameter.name for parameter in named]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    unknown = [] if takes_any else [name for name in keywords if name not in names]
    if unknown:
        raise ConfigurationError(
            f"with_parameters: {where} must name each keyword, but {unknown} are not among {names or 'its arguments besides the config'}."
        )
    missing = [parameter.name for parameter in named if parameter.default is parameter.empty and parameter.name not in keywords]
    if missing:
        given = ", ".join(f"{name}=..." for name in missing)
        raise ConfigurationError(f"{where} needs {missing} besides the config. Give them: hp.with_parameters({target}, {given}).")


def _what(thing: Any) -> str:
    """What was handed over instead, and the way out."""
    if isinstance(thing, type) and issubclass(thing, torch.nn.Module):
        return f"{thing.__name__}, a class of torch modules. Build it in a train function or in ModelTrainable.setup."
    if isinstance(thing, torch.nn.Module):
        return f"a {type(thing).__name__}, a torch module. Build it in a train function or in ModelTrainable.setup: each trial has its own."
    if isinstance(thing, type):
        return f"the class {thing.__name__}, which derives neither hp.Trainable nor hp.ModelTrainable."
    if isinstance(thing, Trainable):
        return f"an instance of {type(thing).__name__}. Give the class: each trial builds its own."
    if isinstance(thing, str):
        return f"the text {thing!r}. Give the function or the class itself."
    return f"{thing!r} of type {type(thing).__name__}."
