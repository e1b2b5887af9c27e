"""A unit becomes callables, in the process that runs them.

    stamp is ours       the pickle is opened
    stamp is another's  the source is executed; the pickle is not so much as looked at: opening it would crash

Then the texts the functions were compiled from are given to `linecache`, so that tracebacks show their lines, and
functions whose annotations name classes get their arguments as instances of them.

Errors     DeployError; whatever the module's own code raises while the source is executed
"""

from __future__ import annotations

import base64
import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable
from types import CodeType, ModuleType
from typing import Any

from cellstore.deploy.standalone import namespace_for
from cellstore.deploy.unit import STAMP, Unit
from cellstore.errors import DeployError
from cellstore.schema.rebuild import SPELT, Rebuild, rebuilder


def load(unit: Unit) -> dict[str, Callable[..., Any]]:
    """The unit's functions by name."""
    remember_sources(unit.sources)
    if unit.payload is not None and unit.stamp == STAMP:
        functions, hints = _from_payload(unit)
    else:
        functions, hints = _from_source(unit)
    return {spec.name: adapted_to(functions[spec.name], hints.get(spec.name, {})) for spec in unit.functions}


def _from_payload(unit: Unit) -> tuple[dict[str, Any], dict[str, Any]]:
    import cloudpickle

    assert unit.payload is not None
    parts = cloudpickle.loads(base64.b64decode(unit.payload))
    return parts["functions"], parts["hints"]


def _from_source(unit: Unit) -> tuple[dict[str, Any], dict[str, Any]]:
    from cellstore.deploy.source.places import compiled  # few processes need what else is in there

    if unit.source_missing:
        raise DeployError(
            f"{unit.module} was deployed from Python {unit.stamp} and cannot be rebuilt under {STAMP}: "
            f"{'; '.join(unit.source_missing)}. Deploy it again under Python {STAMP}: run its cells there"
        )
    if not unit.source and unit.functions:
        raise DeployError(f"{unit.module} carries neither source nor a payload for Python {STAMP}; deploy it again")
    file = f"<cellstore {unit.module}>"
    remember_sources({file: unit.source})
    namespace = executed(unit, compiled(unit.source, file, unit.sources))
    return namespace["__cellstore_functions__"], namespace["__cellstore_hints__"]


def executed(unit: Unit, statements: Iterable[CodeType]) -> dict[str, Any]:
    """The namespace after the user's own code has run, in the user's process. Classes look their module up meanwhile."""
    module = ModuleType(unit.module)
    module.__dict__.update(namespace_for(unit))
    before = sys.modules.get(unit.module)
    sys.modules[unit.module] = module
    try:
        for code in statements:
            exec(code, module.__dict__)
    finally:
        if before is None:
            del sys.modules[unit.module]
        else:
            sys.modules[unit.module] = before
    return module.__dict__


def remember_sources(sources: dict[str, str]) -> None:
    """Have tracebacks show these texts for these file names, whatever the files hold now, if there are any."""
    for name, text in sources.items():
        lines = text.splitlines(keepends=True)
        if linecache.getlines(name) != lines:
            linecache.cache[name] = (len(text), None, lines, name)


def adapted_to(fn: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """`fn`, given instances of the classes its annotations name; `fn` itself where plain values are what it wants."""
    names = hints.get(SPELT)
    steps = {
        name: step for name, hint in hints.items() if name != SPELT and (step := rebuilder(hint, names)) is not None
    }
    if not steps:
        return fn
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def adapted_async(ctx: Any, **args: Any) -> Any:
            return await fn(ctx, **_rebuilt(steps, args))

        return adapted_async

    @functools.wraps(fn)
    def adapted(ctx: Any, **args: Any) -> Any:
        return fn(ctx, **_rebuilt(steps, args))

    return adapted


def _rebuilt(steps: dict[str, Rebuild], args: dict[str, Any]) -> dict[str, Any]:
    return {name: steps[name](value) if name in steps else value for name, value in args.items()}
