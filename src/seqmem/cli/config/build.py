"""From settings to objects: the model, the task, the optimizer and the plan of a run.

The options of a cell, a task or an optimizer are the parameters of its class; unknown ones and wrong types are
refused here, wrong values by the class itself.
"""

import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import nn, optim

from ...cells import CELLS, WRAPPERS, Cell, CellFactory, use_kernel
from ...cells.base import cells_in
from ...cores import usable_cores
from ...kernels.loading import Library, Unavailable, load
from ...laws.subject import materialize
from ...laws.words import with_type
from ...models import MODELS, Model, stacked
from ...models.base import hidden_size_for, parameter_count, trainable
from ...optimizers import OPTIMIZERS
from ...probes import PROBES, GradientProbe, Probe, Scheduled
from ...randomness import ambient
from ...spaces import TASK_SETTINGS
from ...tasks import TASKS, Task
from ...tasks.observable import Observable
from ...training.omega import Omega
from ...training.plan import Plan, check_precision
from . import memory
from .commands import install
from .errors import ConfigError, nearest
from .initial import initialise
from .own_code import hidden, import_module
from .schema import RunConfig, check_device_name, chosen_threads
from .trial import try_cell, try_declared, try_model, try_probe, try_task
from .wrapping import parts

_CELL_COMMON = ("name", "hidden_size", "layers", "params", "wrap")
_MODEL_COMMON = ("name",)

_PLAN_NAMES = {
    "evaluate_": "evaluate.", "trace_": "trace.", "lengths": "task.lengths", "shortest": "task.shortest",
    "checkpoint_every_t": "train.checkpoint_every_t", "sequences": "train.sequences", "patience": "train.patience",
    "until_solved": "train.until_solved", "schedule": "train.schedule", "warmup": "train.warmup",
    "omega": "train.omega",
    "validation_sequences": "evaluate.validation",
}  # fmt: skip
"""Fields of Plan -> settings, where the names differ."""


@dataclass(frozen=True)
class Experiment:
    """What training needs, and the facts about it that a run records."""

    model: Model
    task: Task
    optimizer: optim.Optimizer
    plan: Plan
    hidden_size: int
    parameters: int
    backend: "Backend"
    doubts: tuple[str, ...] = ()
    """Lines about memory that may not be enough."""


@dataclass(frozen=True)
class Backend:
    """What computes the recurrence of a run.

    Args:
        name: ``native``, ``torch`` or ``step``.
        detail: the instruction set of the native kernels, or why they are not used.
        threads: of the native kernels where they are used, else of torch.
    """

    name: str
    detail: str
    threads: int

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name

    @property
    def brief(self) -> str:
        """``native kernel, 2 threads``"""
        return f"{self.name} kernel" + (f", {self.threads} threads" if self.threads > 1 else "")

    @property
    def torch_threads(self) -> int:
        """One beside native kernels: their results do not depend on the number of threads, torch's do."""
        return 1 if self.name == "native" else self.threads


def build(config: RunConfig, *, alone: bool = True, laws: bool = False) -> Experiment:
    """Build a run's objects. The weights are a function of the seed and the sizes, drawn on the CPU in float32.

    Args:
        alone: no other run is expected on this machine, so ``threads=auto`` may use every core.
        laws: it will be trained: refuse a user's own class that breaks what cells and models promise.

    Raises:
        ConfigError: a setting cannot have its value.
    """
    task, plan = build_task(config), build_plan(config)
    if laws and "target" in config.task:
        where = f"task.target={config.task['target']}"
        _once(type(task), (config.task, config.seq_len), lambda: try_task(task, where, seq_len=config.seq_len))
    _checked("", lambda: plan.check(task))
    device = find_device(config.device)
    make = _model_maker(config, task)
    doubts = _refuse_too_large(config, make, device)
    hidden_size = _hidden_size(config, make)
    with ambient(config.seed, "weights"):
        model = _checked("cell.", lambda: make(hidden_size))
    _try_own(config, model, task, device, laws=laws)
    if laws:
        _try_probes(config, model, task, plan)
    model.to(device, getattr(torch, config.dtype))
    backend = _checked("", lambda: _choose_kernel(config, model, device, alone=alone))
    kind = _choice("optimizer", config.optimizer.get("name"), OPTIMIZERS)
    options = arguments(kind, _without(config.optimizer, ("name",)), "optimizer", skip=1)
    optimizer = _checked("optimizer.", lambda: kind(trainable(model), **options))
    return Experiment(model, task, optimizer, plan, hidden_size, parameter_count(model), backend, tuple(doubts))


def build_model(config: RunConfig, task: Task) -> Model:
    """The model alone, on the CPU in float32, with the weights that ``build`` gives it. It is not tried.

    Raises:
        ConfigError: a setting cannot have its value.
    """
    _checked("", lambda: build_plan(config).check(task))
    make, device = _model_maker(config, task), torch.device("cpu")
    _refuse_too_large(config, make, device)
    hidden_size = _hidden_size(config, make)
    with ambient(config.seed, "weights"):
        model = _checked("cell.", lambda: make(hidden_size))
    _checked("", lambda: _choose_kernel(config, model, device, alone=False))
    return model


def build_cell(config: RunConfig, task: Task) -> Cell:
    """The cell alone, all layers and wrappers of it, for the width of the task's embedded inputs; as ``build_model``.

    Raises:
        ConfigError: a setting cannot have its value.
    """
    _checked("", lambda: build_plan(config).check(task))
    model, device = _model_maker(config, task), torch.device("cpu")
    _refuse_too_large(config, model, device)
    make = _cell_maker(config)(_hidden_size(config, model))
    _, width = task.inputs.embed(config.embed_size)
    with ambient(config.seed, "weights"):
        cell = _checked("cell.", lambda: make(width))
    try:
        materialize(cell, config.seed)
    except Exception as error:
        where = f"cell.target={config.cell.get('target')}"
        raise ConfigError(f"{where}: its first step fails: {with_type(error)}") from error
    _checked("", lambda: _choose_kernel(config, cell, device, alone=False))
    return cell


def _refuse_too_large(config: RunConfig, make: Callable[[int], Model], device: torch.device) -> list[str]:
    """Lines about memory that may not be enough. ``make``: from a hidden size to a model."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()
    return memory.refuse(config, free, lambda size: _count(make, size), lambda size, steps: _kept(make, size, steps))


def _count(make: Callable[[int], Model], hidden_size: int) -> int:
    with ambient(0, "count"):
        return parameter_count(_checked("cell.", lambda: make(hidden_size)))


def _kept(make: Callable[[int], Model], hidden_size: int, steps: int) -> int:
    """The least ``Cell.kept`` of the cells that contain no others: not every cell need see every timestep."""
    with ambient(0, "count"):
        inside = cells_in(_checked("cell.", lambda: make(hidden_size)))
    return min((cell.kept(steps) for cell in inside if len(cells_in(cell)) == 1), default=steps)


def build_task(config: RunConfig) -> Task:
    kind, options, where = _chosen("task", config.task, TASKS, Task, TASK_SETTINGS)
    checked = arguments(kind, options, where, common=TASK_SETTINGS if where == "task" else ())
    task = _checked("task.", lambda: _make(kind, config.task, "task", **checked))
    shown = _as(bool, config.task.get("observable", False), "task.observable")
    return _checked("task.", lambda: Observable(task)) if shown else task


def build_plan(config: RunConfig) -> Plan:
    shortest, lengths = config.task.get("shortest"), config.evaluate.lengths
    return Plan(
        seq_len=config.seq_len,
        steps=config.steps,
        seed=config.seed,
        batch_size=config.batch_size,
        lengths=config.task.get("lengths", "fixed"),
        shortest=None if shortest is None else _as(int, shortest, "task.shortest"),
        clip_norm=config.clip_norm,
        log_every=config.log_every,
        evaluate_every=config.evaluate.every,
        evaluate_sequences=config.evaluate.sequences,
        evaluate_lengths=None if lengths is None else tuple(lengths),
        evaluate_beam=config.evaluate.beam,
        trace_every=config.trace.every,
        trace_sequences=config.trace.sequences,
        trace_loss=config.trace.loss.value,
        checkpoint_every=config.checkpoint_every,
        on_nan=config.on_nan.value,
        tbptt=config.tbptt,
        checkpoint_every_t=config.train.checkpoint_every_t,
        sequences=config.train.sequences,
        patience=config.train.patience,
        until_solved=config.train.until_solved,
        validation_sequences=config.evaluate.validation,
        schedule=config.train.schedule,
        warmup=config.train.warmup,
        omega=config.train.omega,
        precision=config.precision.value,
        compile=config.compile,
        probes=tuple(_probe(name, settings) for name, settings in config.probe.items()),
    )


def _probe(name: str, settings: Any) -> Scheduled:
    """``probe.NAME``: the options of the probe are beside ``every`` and ``sequences``; of a user's own, in ``args``."""
    where = f"probe.{name}"
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where}: has settings, e.g. {where}.every=100; a probe's file begins with @package {where}")
    if name == GradientProbe.name:
        raise ConfigError(f"{where}: its settings are trace.every, trace.sequences and trace.loss")
    schedule = {key: _as(int, settings[key], f"{where}.{key}") for key in ("every", "sequences") if key in settings}
    rest = _without(settings, ("name", "every", "sequences"))
    if "target" in rest:
        for key in _without(rest, ("target", "args", "code")):
            raise ConfigError(f"there is no setting '{where}.{key}': the class's own are {where}.args.{key}")
        kind, options, of = _load(rest["target"], Probe, where), dict(rest.get("args") or {}), f"{where}.args"
    else:
        kind, options, of = _choice("probe", name, PROBES), rest, where
    if getattr(kind, "name", None) != name:
        raise ConfigError(f"{where}: the probe is called '{getattr(kind, 'name', None)}' by its class: use that name")
    probe = _make(kind, settings, where, **arguments(kind, options, of))
    if "target" in rest:
        try_declared(probe, f"{where}.target={rest['target']}")
    return Scheduled(probe, **schedule)


def check(config: RunConfig) -> None:
    """Raise ConfigError for whatever ``build`` or training would refuse, without training anything."""
    check_trainable(build(config, laws=True), config)


def check_trainable(experiment: Experiment, config: RunConfig, *, begun: bool = False) -> None:
    """Raise ConfigError where what was built can be evaluated on its device, but not trained as the plan says.

    The model gets the weights of ``init_from``.

    Args:
        begun: the run has a checkpoint, and ``init_from`` is no longer needed.
    """
    if config.init_from is not None and not begun:
        initialise(experiment.model, config.init_from, config.init_weights)
    first = next(experiment.model.parameters())
    _checked("", lambda: check_precision(experiment.plan.precision, first.device, first.dtype))
    weight = experiment.plan.omega
    if weight is not None:
        _checked("", lambda: Omega(experiment.model, weight))


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, each by its name in CUDA_VISIBLE_DEVICES: an index, or an identifier that is there."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(count)] if given is None else [part.strip() for part in given.split(",")]
    return names[:count]


def find_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: torch sees no CUDA device here; use device=cpu or device=auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name}: there are only {torch.cuda.device_count()} CUDA devices here")
    return device


def _choose_kernel(config: RunConfig, model: nn.Module, device: torch.device, *, alone: bool) -> Backend:
    """Choose what computes the cells inside ``model``, and set it.

    Raises:
        ConfigError: ``kernel=native`` is impossible here, or ``threads`` is no number of threads.
        ValueError: the environment names an instruction set that does not exist here.
    """
    threads, kernel = chosen_threads(config.threads), config.kernel.value
    cells, library = cells_in(model), load()
    kernels = {name for cell in cells for name in cell.kernels}
    why = ""
    if "native" not in kernels:
        form = " for these settings" if any("native" in type(cell).kernels for cell in cells) else ""
        why = f"cell={config.cell.get('name')} has no native kernel{form}"
    elif device.type != "cpu":
        why = f"device={device}: native kernels are for the CPU"
    elif config.precision.value == "bf16":
        why = "precision=bf16: native kernels compute in float32 and float64"
    elif config.train.omega is not None:
        why = f"train.omega={config.train.omega:g}: it is computed from the cell's steps, one after the other"
    elif config.compile:
        why = "compile=true: torch's compiler cannot see into native kernels"
    elif isinstance(library, Unavailable):
        why = f"no native kernels: {library.reason}"
    if kernel == "native" and why:
        raise ConfigError(f"kernel=native: {why}; or use kernel=auto")
    if kernel in ("auto", "native") and not why and isinstance(library, Library):
        backend = Backend("native", library.isa, threads or (usable_cores() if alone else 1))
    else:
        by_step = kernel == "step" or (kernels and "torch" not in kernels) or config.train.omega is not None
        backend = Backend("step" if by_step else "torch", why if kernel == "auto" else "", threads or 1)
    use_kernel(model, kernel, backend.threads)
    return backend


def _model_maker(config: RunConfig, task: Task) -> Callable[[int], Model]:
    """A function from a hidden size to a fresh model."""
    kind, options, where = _chosen("model", config.model, MODELS, Model, _MODEL_COMMON)
    parameters = inspect.signature(kind).parameters
    # What the settings say already is no option of the model.
    told = {"embed_size": config.embed_size, "seq_len": config.seq_len}
    checked = arguments(kind, options, where, skip=2, told=(*told, "layers"))
    checked |= {name: value for name, value in told.items() if name in parameters}
    cells = _cell_maker(config)
    others = {
        name: _cell_maker(replace(config, cell=_other_cell(config, f"{where}.{name}", checked.pop(name))))
        for name, parameter in parameters.items()
        if _takes_a_cell(parameter) and checked.get(name) is not None
    }

    def make(hidden_size: int) -> Model:
        made = {name: maker(hidden_size) for name, maker in others.items()}
        return _checked(
            "model.", lambda: _make(kind, config.model, "model", task, cells(hidden_size), **checked, **made)
        )

    return make


def _takes_a_cell(parameter: inspect.Parameter) -> bool:
    """The parameter is a ``CellFactory | None``."""
    return any(get_origin(option) is Callable for option in get_args(parameter.annotation))


def _other_cell(config: RunConfig, where: str, given: Any) -> dict[str, Any]:
    """The settings of a further cell of a model: a name, or a mapping with options; the rest is as in ``cell``."""
    given = {"name": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping) or given.get("name") not in CELLS:
        name = given.get("name") if isinstance(given, Mapping) else _as_typed(given)
        hint = nearest(str(name), list(CELLS))
        raise ConfigError(f"{where}={name}: must be the name of a cell, or null for that of cell=.{hint}")
    common = {key: config.cell[key] for key in ("layers", "wrap") if key in config.cell}
    return {**common, **given}


def _cell_maker(config: RunConfig) -> Callable[[int], CellFactory]:
    """From a hidden size to a factory of the cells that the settings describe, on top of each other."""
    settings = config.cell
    kind, options, where = _chosen("cell", settings, CELLS, Cell, _CELL_COMMON)
    checked = arguments(kind, options, where, skip=2, common=_CELL_COMMON if where == "cell" else ())
    if "seq_len" in inspect.signature(kind).parameters:
        checked.setdefault("seq_len", config.seq_len)  # for cells whose initialisation depends on it
    layers = _as(int, settings.get("layers", 1), "cell.layers")
    if layers < 1:
        raise ConfigError(f"cell.layers={layers}: must be at least 1")
    if config.embed_size < 0:
        raise ConfigError(f"embed_size={config.embed_size}: must be at least 1, or 0 for one-hot")
    wrappers = _wrappers(settings.get("wrap"))

    def make(hidden_size: int) -> CellFactory:
        def cell(input_size: int) -> Cell:
            made = _make(kind, settings, "cell", input_size, hidden_size, **checked)
            for wrapper in wrappers:
                made = wrapper(made)
            return made

        return lambda input_size: _checked("cell.", lambda: stacked(cell, layers)(input_size))

    return make


def _wrappers(word: Any) -> list[Callable[[Cell], Cell]]:
    """The wrappers that ``cell.wrap`` names, from the inside out; the value behind a name is that of its one option."""
    if not isinstance(word, str | None):
        raise ConfigError(f"cell.wrap={_as_typed(word)}: must be names with + between them: {'+'.join(WRAPPERS)}")
    wrappers: list[Callable[[Cell], Cell]] = []
    for name, text in parts(word):
        if name not in WRAPPERS:
            hint = nearest(name, list(WRAPPERS))
            raise ConfigError(f"cell.wrap={word}: no wrapper is called '{name}'.{hint} One of: {', '.join(WRAPPERS)}")
        options = [*inspect.signature(WRAPPERS[name]).parameters][1:]
        if options and text is None:
            raise ConfigError(f"cell.wrap={word}: {name} needs its {options[0]}: {name}:0.1")
        if text is not None and not options:
            raise ConfigError(f"cell.wrap={word}: {name} has no option: leave out ':{text}'")
        try:
            wrappers.append(partial(WRAPPERS[name], **{option: float(str(text)) for option in options}))
        except ValueError:
            raise ConfigError(f"cell.wrap={word}: {name}'s {options[0]} must be a number") from None
    return wrappers


def _hidden_size(config: RunConfig, make: Callable[[int], nn.Module]) -> int:
    params = config.cell.get("params")
    if params is None:
        size = _as(int, config.cell.get("hidden_size", 64), "cell.hidden_size")
        if size < 1:
            raise ConfigError(f"cell.hidden_size={size}: must be at least 1")
        return size
    count = _as(int, params, "cell.params")
    if count < 1:
        raise ConfigError(f"cell.params={count}: must be at least 1")
    return _checked("cell.", lambda: hidden_size_for(count, make))


def _chosen(
    group: str, settings: Mapping[str, Any], known: Mapping[str, Any], base: type, common: tuple[str, ...]
) -> tuple[Any, dict[str, Any], str]:
    """(the chosen class, its options, the prefix of their settings)"""
    if settings.get("name") != "custom":
        return _choice(group, settings.get("name"), known), _without(settings, common), group
    for name in _without(settings, (*common, "target", "args", "code")):
        raise ConfigError(f"there is no setting '{group}.{name}': the class's own are {group}.args.{name}")
    return _load(settings["target"], base, group), dict(settings.get("args") or {}), f"{group}.args"


def _make(kind: Callable[..., Any], settings: Mapping[str, Any], group: str, /, *given: Any, **options: Any) -> Any:
    """``kind(*given, **options)``. Any error in a user's own class becomes a ConfigError."""
    if "target" not in settings:
        try:
            return kind(*given, **options)
        except ImportError as error:  # ours whose packages are an extra of the same name
            raise ConfigError(f"{group}.{error}: {install(str(settings['name']))}") from error
    where = f"{group}.target={settings['target']}"
    try:
        instance = kind(*given, **options)
    except Exception as error:
        raise ConfigError(f"{where}: cannot be made: {with_type(error)}") from error
    if group == "cell" and not (
        isinstance(getattr(instance, "output_size", None), int) and hasattr(instance, "input_size")
    ):
        raise ConfigError(f"{where}: must set input_size and output_size, whole numbers, in __init__")
    return instance


def _try_own(config: RunConfig, model: Model, task: Task, device: torch.device, *, laws: bool) -> None:
    """Read a few timesteps with the user's own classes, so that their errors show before a run or a sweep begins."""
    dtype, traced = getattr(torch, config.dtype), config.trace.every > 0 or bool(config.probe)
    if config.cell.get("name") == "custom":
        kind = _load(config.cell["target"], Cell, "cell")
        for cell in [cell for cell in cells_in(model) if type(cell) is kind][:1]:
            where = f"cell.target={config.cell['target']}"
            try_cell(cell, where, device=device, dtype=dtype, laws=laws, traced=traced)
    if config.model.get("name") == "custom":
        where = f"model.target={config.model['target']}"
        try_model(model, task, where, device=device, dtype=dtype, laws=laws, traced=traced)


def _try_probes(config: RunConfig, model: Model, task: Task, plan: Plan) -> None:
    settings = (config.cell, config.model, config.task, config.seq_len, config.embed_size)
    for scheduled, (name, options) in zip(plan.probes, config.probe.items(), strict=True):
        if "target" in options:
            trial = partial(try_probe, scheduled, f"probe.{name}.target={options['target']}", model, plan, task)
            _once(type(scheduled.probe), (options, *settings), trial)


_sound: set[tuple[type, str]] = set()


def _once(kind: type, settings: tuple[object, ...], trial: Callable[[], None]) -> None:
    """``trial`` of a class, unless it has passed with these settings: runs of a sweep may differ in the seed alone."""
    key = (kind, repr(settings))
    if key not in _sound:
        trial()
        _sound.add(key)


def _choice(group: str, name: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"no {group} is called '{name}'.{nearest(str(name), list(known))} One of: {', '.join(known)}")
    return known[name]


def _without(settings: Mapping[str, Any], common: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in common}


def _checked(prefix: str, make: Callable[[], Any]) -> Any:
    """``make()``. A ValueError of its classes becomes a ConfigError with the setting's full name."""
    try:
        return make()
    except ConfigError:
        raise
    except ValueError as error:
        text = str(error)
        for name, setting in _PLAN_NAMES.items():
            if not prefix and text.startswith(name):
                text = setting + text.removeprefix(name)
        named = "=" in text.partition(" ")[0]
        prefix = "" if prefix and text.startswith(f"{prefix.rstrip('.')}=") else prefix
        raise ConfigError(prefix + text if named or not prefix else f"{prefix.rstrip('.')}: {text}") from error


def _load(target: str, base: type, group: str) -> Any:
    """Import a user's own class, from the working directory if it is there."""
    mine = f"my{base.__name__.lower()}s"
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ConfigError(f"{group}.target={target}: must be module.Class, e.g. {mine}.{target or 'Mine'}")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        why = with_type(error) + _hidden(getattr(error, "name", None) or module_name)
        raise ConfigError(f"{group}.target={target}: cannot import {module_name}: {why}") from error
    kind = getattr(module, name, None)
    if kind is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
        why = nearest(name, classes) or _hidden(module_name)
        raise ConfigError(f"{group}.target={target}: {module_name} has no {name}.{why}")
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigError(f"{group}.target={target}: must be a subclass of {base.__module__}.{base.__name__}")
    return kind


def _hidden(module: str) -> str:
    why = hidden(module)
    return f" ({why})" if why else ""


def arguments(
    kind: Callable[..., Any],
    given: Mapping[str, Any],
    where: str,
    *,
    skip: int = 0,
    told: Sequence[str] = ("seq_len",),
    common: Sequence[str] = (),
) -> dict[str, Any]:
    """``given`` as keyword arguments of ``kind``, by its signature. The first ``skip`` parameters are not settings, nor
    those in ``told``. ``common``: settings beside those of the class, which may have been meant.

    Raises:
        ConfigError: an unknown name, a missing one, or a value of the wrong type.
    """
    parameters = dict(list(inspect.signature(kind).parameters.items())[skip:])
    settings = {name: parameter for name, parameter in parameters.items() if name not in told}
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in settings.values())
    checked = {}
    for name, value in given.items():
        if name not in settings and not anything:
            others = f" {where} has {', '.join([*settings] or [one for one in common if one != 'name']) or 'none'}"
            hint = nearest(name, [*settings, *common], f"{where}.") or others
            raise ConfigError(f"there is no setting '{where}.{name}'.{hint}")
        hint = settings[name].annotation if name in settings else Any
        checked[name] = _as(hint, value, f"{where}.{name}")
    for name, parameter in settings.items():
        variadic = parameter.kind is inspect.Parameter.VAR_KEYWORD
        required = parameter.default is inspect.Parameter.empty and not variadic
        if required and name not in checked:
            raise ConfigError(f"{where}.{name} is not set: give it a value, {where}.{name}=...")
    return checked


def _as(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``: numbers and Literals are checked; other types are passed through."""
    converted, description = _fit(hint, value)
    if converted is _NO:
        raise ConfigError(f"{where}={_as_typed(value)}: must be {description}")
    return converted


def _as_typed(value: Any) -> Any:
    """A value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


_NO = object()


def _fit(hint: Any, value: Any) -> tuple[Any, str]:
    """(the converted value, or _NO; a description of what it must be)"""
    origin = get_origin(hint)
    if hint is bool:
        return (value if isinstance(value, bool) else _NO), "true or false"
    if hint is int:
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        whole = whole and (isinstance(value, int) or value.is_integer())
        return (int(value) if whole else _NO), "a whole number"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return (float(value) if number else _NO), "a number"
    if hint is str:
        return (value if isinstance(value, str) else _NO), "a word"
    if hint is type(None):
        return (None if value is None else _NO), "null"
    if origin is Literal:
        return (value if value in get_args(hint) else _NO), " or ".join(str(option) for option in get_args(hint))
    if origin in (Union, types.UnionType):
        tried = [_fit(option, value) for option in get_args(hint)]
        alternatives = " or ".join(description for _, description in tried)
        return next((converted for converted, _ in tried if converted is not _NO), _NO), alternatives
    if origin is tuple and Ellipsis not in get_args(hint):
        items = value if isinstance(value, list | tuple) else ()
        parts = [_fit(option, item) for option, item in zip(get_args(hint), items, strict=False)]
        right = len(items) == len(get_args(hint)) and all(converted is not _NO for converted, _ in parts)
        return (tuple(converted for converted, _ in parts) if right else _NO), f"a list of {len(get_args(hint))} values"
    return value, "something else"
