"""routing.py: patterns, who wins, and the same answers as a naive matcher."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcluster.errors import UsageError
from fastcluster.routing import Pattern, Router


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/a", "/a/", None),
        ("/users/{id}", "/users/ada", {"id": "ada"}),
        ("/users/{id}", "/users/a/b", None),
        ("/users/{id}", "/users/", None),
        ("/users/{id:int}", "/users/-7", {"id": -7}),
        ("/users/{id:int}", "/users/7x", None),
        ("/users/{id:int}", "/users/" + "9" * 5000, None),
        ("/users/{id:int}", "/users/7\n", None),
        ("/x/{v:float}", "/x/2.5", {"v": 2.5}),
        ("/f/{rest:path}", "/f/a/b.txt", {"rest": "a/b.txt"}),
        ("/{a}-{b}.json", "/x-y.json", {"a": "x", "b": "y"}),
        ("/a.b", "/axb", None),
        (
            "/u/{id:uuid}",
            "/u/12345678-1234-5678-1234-567812345678",
            {"id": uuid.UUID("12345678-1234-5678-1234-567812345678")},
        ),
    ],
)
def test_what_fits(pattern: str, path: str, params: object) -> None:
    assert Pattern(pattern).match(path) == params


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("users", "begins with '/'"),
        ("/{id", "braces do not pair"),
        ("/id}", "braces do not pair"),
        ("/{}", "is no name"),
        ("/{a-b}", "is no name"),
        ("/{a}/{a}", "two parameters called 'a'"),
        ("/{a:integer}", "'integer' is no type of parameter; there are str, int"),
    ],
)
def test_a_bad_pattern_is_refused_in_one_clear_line(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Pattern(pattern)
    assert "\n" not in str(caught.value)


def test_static_wins_over_parameters_and_the_first_over_the_second() -> None:
    router = Router()
    router.add("GET", "/users/{name}", "named")
    router.add("GET", "/users/me", "me")
    router.add("GET", "/users/me", "never")
    router.add("GET", "/users/{other}", "never")
    assert router.match("GET", "/users/me").handler == "me"  # type: ignore[union-attr]
    found = router.match("GET", "/users/ada")
    assert found is not None
    assert (found.handler, found.params, found.pattern) == (
        "named",
        {"name": "ada"},
        "/users/{name}",
    )


def test_methods_of_a_path() -> None:
    router = Router()
    router.add("GET", "/a", 1)
    router.add("POST", "/{x}", 2)
    assert router.methods("/a") == ["GET", "HEAD", "POST"]
    assert router.methods("/b") == ["POST"]
    assert router.methods("/b/c") == []


SEGMENTS = st.sampled_from(["a", "b", "users", "7", "-3", "2.5", "{x}", "{n:int}"])
PATTERNS = st.lists(SEGMENTS, max_size=3).map(
    # Each parameter has a name of its own, by its place.
    lambda parts: "/" + "/".join(p.replace("{", "{" + f"p{i}_") for i, p in enumerate(parts))
)
PATHS = st.lists(st.sampled_from(["a", "b", "users", "7", "-3", "2.5", "", "é"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def naive(patterns: list[str], path: str) -> tuple[int, dict[str, object]] | None:
    """Segment by segment, static patterns first."""
    for wants_static in (True, False):
        for number, pattern in enumerate(patterns):
            if ("{" not in pattern) is not wants_static:
                continue
            params = naive_params(pattern.split("/"), path.split("/"))
            if params is not None:
                return number, params
    return None


def naive_params(wanted: list[str], given_: list[str]) -> dict[str, object] | None:
    if len(wanted) != len(given_):
        return None
    params: dict[str, object] = {}
    for want, have in zip(wanted, given_, strict=True):
        if not want.startswith("{"):
            if want != have:
                return None
        elif want.endswith(":int}"):
            if not have.removeprefix("-").isdigit():
                return None
            params[want[1:-5]] = int(have)
        elif have:
            params[want[1:-1]] = have
        else:
            return None
    return params


@given(st.lists(PATTERNS, max_size=8), PATHS)
def test_the_router_agrees_with_a_naive_matcher(patterns: list[str], path: str) -> None:
    router = Router()
    for number, pattern in enumerate(patterns):
        router.add("GET", pattern, number)
    found = router.match("GET", path)
    assert (None if found is None else (found.handler, found.params)) == naive(patterns, path)
