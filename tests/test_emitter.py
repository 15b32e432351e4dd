"""Events by name."""

from typing import get_overloads

from fastcluster.emitter import Emitter


def test_listeners_are_called_in_order_with_the_arguments() -> None:
    emitter, heard = Emitter(), []
    emitter.on("x", lambda *a: heard.append(("first", a)))
    emitter.on("x", lambda *a: heard.append(("second", a)))
    assert emitter.emit("x", 1, 2)
    assert heard == [("first", (1, 2)), ("second", (1, 2))]


def test_emit_says_whether_there_were_listeners() -> None:
    assert not Emitter().emit("x")


def test_once_is_called_once_even_if_it_emits_again() -> None:
    emitter, heard = Emitter(), []

    @emitter.once("x")
    def listen() -> None:
        heard.append(1)
        emitter.emit("x")

    emitter.emit("x")
    emitter.emit("x")
    assert heard == [1]


def test_off_removes_the_last_added_only() -> None:
    emitter, heard = Emitter(), []
    listener = lambda: heard.append(1)  # noqa: E731
    emitter.on("x", listener).on("x", listener).off("x", listener)
    emitter.off("y", listener)
    emitter.emit("x")
    assert heard == [1]


def test_a_decorator_gives_the_function_back() -> None:
    emitter = Emitter()

    @emitter.on("x")
    def listener() -> str:
        return "mine"

    assert listener() == "mine"
    assert emitter.has_listeners("x")
    emitter.forget_listeners()
    assert not emitter.has_listeners("x")


def test_a_decorated_listener_keeps_its_type() -> None:
    for method in (Emitter.on, Emitter.once):
        decorator, chained = get_overloads(method)
        assert decorator.__annotations__["return"] == "Callable[[Listener], Listener]"
        assert chained.__annotations__["return"] == "Self"
