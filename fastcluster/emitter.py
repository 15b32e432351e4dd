"""Events by name, in the manner of Node's EventEmitter.

Listeners are called in the order in which they were added, in the emitter's own thread,
and what one raises passes through to whoever emits.  It does not know what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar, overload

Listener = TypeVar("Listener", bound=Callable[..., object])


class Emitter:
    """Something that has events; see on()."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[tuple[Callable[..., object], bool]]] = {}

    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    @overload
    def on(self, event: str, listener: Callable[..., object]) -> Self: ...
    def on(self, event: str, listener: Callable[..., object] | None = None) -> Any:
        """Call listener(*arguments) whenever the event is emitted.

        Returns the emitter, or a decorator if no listener is given.  (Node: emitter.on)
        """
        return self._add(event, listener, only_once=False)

    @overload
    def once(self, event: str) -> Callable[[Listener], Listener]: ...
    @overload
    def once(self, event: str, listener: Callable[..., object]) -> Self: ...
    def once(self, event: str, listener: Callable[..., object] | None = None) -> Any:
        """Call listener(*arguments) the next time only; else as on().  (Node: emitter.once)"""
        return self._add(event, listener, only_once=True)

    def off(self, event: str, listener: Callable[..., object]) -> Emitter:
        """Remove a listener, the one that was added last; nothing happens if there is none."""
        added = self._listeners.get(event, [])
        for index in reversed(range(len(added))):
            if added[index][0] == listener:
                del added[index]
                break
        return self

    def emit(self, event: str, *arguments: object) -> bool:
        """Call the event's listeners; returns whether there were any."""
        added = self._listeners.get(event, [])
        calling = list(added)
        for entry in calling:
            if entry[1] and entry in added:
                added.remove(entry)
            entry[0](*arguments)
        return bool(calling)

    def has_listeners(self, event: str) -> bool:
        """Tell whether anybody listens to the event."""
        return bool(self._listeners.get(event))

    def forget_listeners(self) -> None:
        """Remove all listeners of all events; for a forked child, whose program runs anew."""
        self._listeners.clear()

    def _add(self, event: str, listener: Callable[..., object] | None, *, only_once: bool) -> Any:
        if listener is not None:
            self._listeners.setdefault(event, []).append((listener, only_once))
            return self

        def decorate(function: Listener) -> Listener:
            self._add(event, function, only_once=only_once)
            return function

        return decorate
