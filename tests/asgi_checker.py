"""A strict reading of ASGI 3, as middleware between any server and any application.

It knows the scopes and messages of HTTP & WebSocket 2.5 and of lifespan 2.0, key by key,
and two small machines that say which message may follow which.  Its law: what a server
gives an application is compared with the specification and reported as a *fault* of the
server, and so is a wrong message that a server takes and a right one that it refuses; what
an application sends that the specification does not allow is reported as a *mistake* of the
application, unless the server has refused it, which the application hears itself.  Reports
are lines of text, and no message is ever changed.  It knows nothing of fastcluster, but takes
it that a server judges a message when send() is called and not when it is awaited.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

Scope = dict[str, Any]
Message = dict[str, Any]
Report = Callable[[str], object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LOWER_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
VALUE = re.compile(rb"[^\0\r\n]*")

HTTP_EXTENSIONS = {
    "http.response.pathsend",
    "http.response.zerocopysend",
    "http.response.early_hint",
    "http.response.trailers",
    "http.response.debug",
    "tls",
}
WEBSOCKET_EXTENSIONS = {"websocket.http.response", "tls"}


class Checker:
    """The middleware; call it as the application that it wraps.

    faults: of the server, mistakes: of the application, in the order of their discovery.
    report: is called with each as one line, at once.
    """

    def __init__(self, app: Any, report: Report | None = None) -> None:
        self.app = app
        self.faults: list[str] = []
        self.mistakes: list[str] = []
        self._report = report

    def fault(self, text: str) -> None:
        self.faults.append(text)
        if self._report is not None:
            self._report(f"fault of the server: {text}")

    def mistake(self, text: str) -> None:
        self.mistakes.append(text)
        if self._report is not None:
            self._report(f"mistake of the application: {text}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope.get("type") if type(scope) is dict else None
        if kind not in CALLS:
            self.fault(f"a scope that is {scope!r:.100}")
            return
        call = CALLS[kind](self, receive, send)
        call.check_scope(scope)
        try:
            await self.app(scope, call.receive, call.send)
        except BaseException:
            call.over = True
            raise
        call.over = True
        call.check_return()


def checked(app: Any) -> Checker:
    """Wrap an application of a process of its own: what is wrong goes to stderr."""
    return Checker(app, lambda text: print(f"ASGI checker: {text}", file=sys.stderr, flush=True))


class Call:
    """One call of the application: what was said so far, and so what may be said next."""

    answers: ClassVar[Mapping[str, Mapping[str, tuple[bool, Callable[[Any], bool]]]]] = {}

    def __init__(self, checker: Checker, receive: Receive, send: Send) -> None:
        self._checker = checker
        self._receive = receive
        self._send = send
        self.over = False
        self.disconnected = False
        self.about = ""

    def fault(self, text: str) -> None:
        self._checker.fault(f"{self.about}: {text}")

    def mistake(self, text: str) -> None:
        self._checker.mistake(f"{self.about}: {text}")

    # ---- from the server

    def check_scope(self, scope: Scope) -> None:
        raise NotImplementedError

    def check_event(self, message: Message) -> None:
        raise NotImplementedError

    async def receive(self) -> Message:
        message = await self._receive()
        if type(message) is not dict or type(message.get("type")) is not str:
            self.fault(f"receive() gave {message!r:.100}")
        else:
            self.check_event(message)
        return message

    def keys(self, message: Message, wanted: Mapping[str, Callable[[Any], bool]]) -> None:
        """Check that a message of the server has these keys, and no others."""
        kind = message["type"]
        for key in message.keys() ^ {"type", *wanted}:
            self.fault(f"{kind} {'has' if key in message else 'lacks'} {key!r}")
        for key, is_right in wanted.items():
            if key in message and not is_right(message[key]):
                self.fault(f"{kind} has {key} = {message[key]!r:.100}")

    # ---- from the application

    def send(self, message: Message) -> Awaitable[None]:
        """Let the server judge a message after we did."""
        wrong = self.wrong_with(message)
        try:
            sending = self._send(message)
        except OSError:
            # Whoever hears this has no client any more, or has named a file.
            self.disconnected = self.disconnected or not names_file(message)
            raise
        except Exception as error:
            if wrong is None and not names_file(message):
                self.fault(f"{message.get('type')} was refused with {error!r}")
            raise
        if wrong is None:
            self.sent(message)
        else:
            self.mistake(wrong)
            if not self.may_take(message):
                self.fault(f"took what is wrong: {wrong}")
        return sending

    def wrong_with(self, message: Any) -> str | None:
        """Return what the specification has against a message, None: nothing."""
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return f"{message!r:.100} is no message"
        kind = message["type"]
        if kind not in self.answers:
            return f"{kind!r} is no message of this protocol"
        if self.over:
            return f"{kind} after the application had returned"
        for key, (is_needed, is_right) in self.answers[kind].items():
            if key not in message:
                if is_needed:
                    return f"{kind} lacks {key!r}"
            elif not is_right(message[key]):
                return f"{kind} has {key} = {message[key]!r:.100}"
        for key in message.keys() - {"type", *self.answers[kind]}:
            return f"{kind} has {key!r}"
        return self.out_of_turn(kind, message)

    def out_of_turn(self, kind: str, message: Message) -> str | None:
        raise NotImplementedError

    def sent(self, message: Message) -> None:
        raise NotImplementedError

    def may_take(self, message: Any) -> bool:
        """Tell whether a server that takes a wrong message does no harm by it."""
        return False

    def check_return(self) -> None:
        raise NotImplementedError


# ---- kinds of values


def is_text(value: Any) -> bool:
    return type(value) is str


def is_bytes(value: Any) -> bool:
    return type(value) is bytes


def is_bool(value: Any) -> bool:
    return type(value) is bool


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_natural(value: Any) -> bool:
    return is_whole(value) and value >= 0


def is_natural_or_none(value: Any) -> bool:
    return value is None or is_natural(value)


def is_status(value: Any) -> bool:
    return is_whole(value) and 200 <= value <= 999


def is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def is_bytes_or_none(value: Any) -> bool:
    return value is None or isinstance(value, bytes)


def is_pair(value: Any, name: re.Pattern[bytes]) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(part, bytes) for part in value)
        and name.fullmatch(value[0]) is not None
        and VALUE.fullmatch(value[1]) is not None
    )


def are_fields(value: Any) -> bool:
    """Check header fields of the server's: names are lower-case, values have no blanks around."""
    return type(value) is list and all(
        is_pair(pair, LOWER_TOKEN) and pair[1] == pair[1].strip(b" \t") for pair in value
    )


def are_fields_to_send(value: Any) -> bool:
    """Check fields of the application's; an iterator is left to the server, who may use it up."""
    if not isinstance(value, (list, tuple)):
        return hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
    return all(
        is_pair(pair, LOWER_TOKEN) and (pair[0] != b"content-length" or pair[1].isdigit())
        for pair in value
    )


def are_fields_of_accept(value: Any) -> bool:
    """The fields of the handshake are the server's, the subprotocol has a key of its own."""
    if not isinstance(value, (list, tuple)):
        return are_fields_to_send(value)
    return are_fields_to_send(value) and not any(
        name in (b"connection", b"upgrade") or name.startswith(b"sec-websocket-")
        for name, _ in value
    )


def are_links(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(link, bytes) for link in value)


def is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def is_file(value: Any) -> bool:
    return is_natural(value) or hasattr(value, "fileno")


def names_file(message: Any) -> bool:
    """Tell whether only the server knows if a message is right, since it looks at the file."""
    return isinstance(message, dict) and ("path" in message or "file" in message)


def is_unicode_or_none(value: Any) -> bool:
    """Surrogates alone are no text that UTF-8 could write."""
    return value is None or (
        isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
    )


def is_close_code_or_none(value: Any) -> bool:
    """Check a code that may stand in a close frame (RFC 6455 section 7.4, and IANA's list)."""
    return value is None or (
        is_whole(value)
        and (1000 <= value <= 1003 or 1007 <= value <= 1014 or 3000 <= value <= 4999)
    )


def is_client(value: Any) -> bool:
    return value is None or (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and is_text(value[0])
        and value[0] != ""
        and is_whole(value[1])
        and 0 < value[1] < 65536
    )


def is_server(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[1] is None:
        return is_text(value[0]) and value[0] != ""  # the path of a unix socket
    return is_client(value)


# ---- http and websocket


class Exchange(Call):
    """What http and websocket have in common: their scopes, and responses in parts."""

    schemes: tuple[str, ...] = ()
    extensions: ClassVar[set[str]] = set()

    def check_scope(self, scope: Scope) -> None:
        self.about = f"{scope.get('method', 'WebSocket')} {scope.get('path')}"
        wanted: dict[str, Callable[[Any], bool]] = {
            "type": is_text,
            "asgi": lambda value: value == {"version": "3.0", "spec_version": "2.5"},
            "http_version": lambda value: value in ("1.0", "1.1", "2"),
            "scheme": lambda value: value in self.schemes,
            "path": is_text,
            "raw_path": is_bytes,
            "query_string": is_bytes,
            "root_path": lambda value: is_text(value) and not value.endswith("/"),
            "headers": are_fields,
            "client": is_client,
            "server": is_server,
            "extensions": lambda value: (
                type(value) is dict
                and value.keys() <= self.extensions
                and all(type(about) is dict for about in value.values())
            ),
            **self.more_keys(),
        }
        for key in (scope.keys() ^ wanted.keys()) - {"state"}:
            self.fault(f"the scope {'has' if key in scope else 'lacks'} {key!r}")
        for key, is_right in wanted.items():
            if key in scope and not is_right(scope[key]):
                self.fault(f"the scope has {key} = {scope[key]!r:.100}")
        if "state" in scope and type(scope["state"]) is not dict:
            self.fault(f"the scope has state = {scope['state']!r:.100}")
        if not self._checker.faults:
            self.check_path(scope)

    def more_keys(self) -> dict[str, Callable[[Any], bool]]:
        raise NotImplementedError

    def check_path(self, scope: Scope) -> None:
        decoded = unquote_to_bytes(scope["raw_path"]).decode("utf-8", "replace")
        if decoded != scope["path"]:
            self.fault(f"raw_path {scope['raw_path']!r} is not path {scope['path']!r}")
        if scope["path"].startswith("/") and not scope["path"].startswith(scope["root_path"]):
            self.fault(f"path {scope['path']!r} does not lie under {scope['root_path']!r}")


class HttpCall(Exchange):
    """An HTTP request and its response."""

    schemes = ("http", "https")
    extensions = HTTP_EXTENSIONS
    answers: ClassVar = {
        "http.response.start": {
            "status": (True, is_status),
            "headers": (False, are_fields_to_send),
            "trailers": (False, is_bool),
        },
        "http.response.body": {"body": (False, is_bytes), "more_body": (False, is_bool)},
        "http.response.pathsend": {"path": (True, is_path)},
        "http.response.zerocopysend": {
            "file": (True, is_file),
            "offset": (False, is_natural_or_none),
            "count": (False, is_natural_or_none),
            "more_body": (False, is_bool),
        },
        "http.response.early_hint": {"links": (True, are_links)},
        "http.response.trailers": {
            "headers": (False, are_fields_to_send),
            "more_trailers": (False, is_bool),
        },
        "http.response.debug": {"info": (True, lambda value: isinstance(value, dict))},
    }

    def __init__(self, checker: Checker, receive: Receive, send: Send) -> None:
        super().__init__(checker, receive, send)
        self.scope_extensions: ClassVar[set[str]] = set()
        self.has_body = True  # the request's is not whole yet
        self.phase = "waiting"  # started, streaming, trailers, complete
        self.is_trailed = False

    def more_keys(self) -> dict[str, Callable[[Any], bool]]:
        return {"method": lambda value: is_text(value) and value != "" and value.upper() == value}

    def check_scope(self, scope: Scope) -> None:
        super().check_scope(scope)
        if isinstance(scope.get("extensions"), dict):
            self.scope_extensions = set(scope["extensions"])

    def check_event(self, message: Message) -> None:
        match message["type"]:
            case "http.request":
                self.keys(message, {"body": is_bytes, "more_body": is_bool})
                if not self.has_body:
                    self.fault("http.request after the end of the request's body")
                if self.disconnected:
                    self.fault("http.request after http.disconnect")
                if message.get("more_body") and not message.get("body"):
                    self.fault("http.request that says nothing")
                self.has_body = message.get("more_body", False)
            case "http.disconnect":
                self.keys(message, {})
                self.disconnected = True
            case kind:
                self.fault(f"receive() gave {kind!r}")

    def out_of_turn(self, kind: str, message: Message) -> str | None:
        name = kind.rpartition(".")[2]
        if name not in ("start", "body") and kind not in self.scope_extensions:
            return f"{kind} is no extension in the scope"
        allowed = {
            "start": ("waiting",),
            "debug": ("waiting",),
            "body": ("started", "streaming"),
            "zerocopysend": ("started", "streaming"),
            "pathsend": ("started",),
            # The specification has hints after the start; before, they do more good.
            "early_hint": ("waiting", "started", "streaming"),
            "trailers": ("trailers",),
        }[name]
        return None if self.phase in allowed else f"{kind} while the response is {self.phase}"

    def sent(self, message: Message) -> None:
        match message["type"].rpartition(".")[2]:
            case "start":
                self.phase = "started"
                self.is_trailed = message.get("trailers", False)
            case "body" | "zerocopysend" if message.get("more_body", False):
                self.phase = "streaming"
            case "body" | "zerocopysend" | "pathsend":
                self.phase = "trailers" if self.is_trailed else "complete"
            case "trailers" if not message.get("more_trailers", False):
                self.phase = "complete"

    def may_take(self, message: Any) -> bool:
        """Allow what every server allows: names in capitals, other bytes, unknown keys."""
        if not isinstance(message, dict) or message.get("type") not in self.answers:
            return False
        if message["type"] == "http.response.debug" or message["type"] not in (
            *("http.response.start", "http.response.trailers"),
            *("http.response.body", "http.response.zerocopysend"),
        ):
            return message["type"] == "http.response.debug"
        mended = {key: value for key, value in message.items() if key in self.known(message)}
        if isinstance(mended.get("body"), (bytearray, memoryview)):
            mended["body"] = bytes(mended["body"])
        if "headers" in mended:
            pairs = list(mended["headers"])
            if not all(is_pair(pair, TOKEN) for pair in pairs):
                return False
            mended["headers"] = [(name.lower(), value) for name, value in pairs]
        if self.wrong_with(mended) is not None:
            return False
        self.sent(mended)
        return True

    def known(self, message: Message) -> set[str]:
        return {"type", *self.answers[message["type"]]}

    def check_return(self) -> None:
        if self.phase != "complete" and not self.disconnected:
            self.mistake(f"it returned while the response was {self.phase}")


class WebSocketCall(Exchange):
    """A WebSocket, or the response that denies it."""

    schemes = ("ws", "wss")
    extensions = WEBSOCKET_EXTENSIONS
    answers: ClassVar = {
        "websocket.accept": {
            "subprotocol": (False, is_text_or_none),
            "headers": (False, are_fields_of_accept),
        },
        "websocket.send": {"bytes": (False, is_bytes_or_none), "text": (False, is_unicode_or_none)},
        "websocket.close": {
            "code": (False, is_close_code_or_none),
            "reason": (False, is_unicode_or_none),
        },
        "websocket.http.response.start": {
            "status": (True, is_status),
            "headers": (False, are_fields_to_send),
        },
        "websocket.http.response.body": {
            "body": (False, is_bytes),
            "more_body": (False, is_bool),
        },
    }

    def __init__(self, checker: Checker, receive: Receive, send: Send) -> None:
        super().__init__(checker, receive, send)
        self.is_told = False  # websocket.connect was received
        self.offered: list[str] = []
        self.phase = "connecting"  # open, closed, started, streaming, denied

    def check_scope(self, scope: Scope) -> None:
        super().check_scope(scope)
        self.offered = list(scope.get("subprotocols", ()))

    def more_keys(self) -> dict[str, Callable[[Any], bool]]:
        return {
            "subprotocols": lambda value: type(value) is list and all(is_text(v) for v in value)
        }

    def check_event(self, message: Message) -> None:
        match message["type"]:
            case "websocket.connect":
                self.keys(message, {})
                if self.is_told:
                    self.fault("websocket.connect for a second time")
                self.is_told = True
            case "websocket.receive":
                key = "text" if "text" in message else "bytes"
                self.keys(message, {key: is_text if key == "text" else is_bytes})
                # What has come before our close may still be received.
                if self.phase not in ("open", "closed") or self.disconnected:
                    self.fault(f"websocket.receive while it is {self.phase}")
            case "websocket.disconnect":
                self.keys(
                    message,
                    {
                        "code": lambda code: is_whole(code) and 1000 <= code < 5000,
                        "reason": is_text,
                    },
                )
                self.disconnected = True
            case kind:
                self.fault(f"receive() gave {kind!r}")
        if not self.is_told:
            self.fault(f"{message['type']} before websocket.connect")

    def out_of_turn(self, kind: str, message: Message) -> str | None:
        if kind == "websocket.send" and (message.get("text") is None) == (
            message.get("bytes") is None
        ):
            return "websocket.send has not one of text and bytes"
        if message.get("subprotocol") is not None and message["subprotocol"] not in self.offered:
            return f"websocket.accept chooses {message['subprotocol']!r}, which is not offered"
        allowed = {
            "websocket.accept": ("connecting",),
            "websocket.send": ("open",),
            "websocket.close": ("connecting", "open"),
            "websocket.http.response.start": ("connecting",),
            "websocket.http.response.body": ("started", "streaming"),
        }[kind]
        return None if self.phase in allowed else f"{kind} while it is {self.phase}"

    def sent(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                self.phase = "open"
            case "websocket.close":
                self.phase = "closed" if self.phase == "open" else "denied"
            case "websocket.http.response.start":
                self.phase = "started"
            case "websocket.http.response.body":
                self.phase = "streaming" if message.get("more_body", False) else "denied"

    def may_take(self, message: Any) -> bool:
        # Which codes and names may be sent is judged by tests of their own.
        return isinstance(message, dict) and message.get("type") in self.answers

    def check_return(self) -> None:
        if self.phase in ("connecting", "started", "streaming") and not self.disconnected:
            self.mistake(f"it returned while the WebSocket was {self.phase}")


# ---- lifespan


class LifespanCall(Call):
    """The startup and the shutdown of an application."""

    answers: ClassVar = {
        "lifespan.startup.complete": {},
        "lifespan.startup.failed": {"message": (False, is_text)},
        "lifespan.shutdown.complete": {},
        "lifespan.shutdown.failed": {"message": (False, is_text)},
    }

    def __init__(self, checker: Checker, receive: Receive, send: Send) -> None:
        super().__init__(checker, receive, send)
        self.about = "lifespan"
        self.phase = "new"  # startup, started, shutdown, over

    def check_scope(self, scope: Scope) -> None:
        for key in scope.keys() ^ {"type", "asgi", "state"}:
            self.fault(f"the scope {'has' if key in scope else 'lacks'} {key!r}")
        if scope.get("asgi") != {"version": "3.0", "spec_version": "2.0"}:
            self.fault(f"the scope has asgi = {scope.get('asgi')!r}")
        if scope.get("state") != {}:
            self.fault(f"the scope has state = {scope.get('state')!r:.100}")

    def check_event(self, message: Message) -> None:
        self.keys(message, {})
        step = (self.phase, message["type"])
        if step == ("new", "lifespan.startup"):
            self.phase = "startup"
        elif step == ("started", "lifespan.shutdown"):
            self.phase = "shutdown"
        else:
            self.fault(f"{message['type']} while it is {self.phase}")

    def out_of_turn(self, kind: str, message: Message) -> str | None:
        _, due, _ = kind.split(".")
        return None if self.phase == due else f"{kind} while it is {self.phase}"

    def sent(self, message: Message) -> None:
        self.phase = "started" if message["type"] == "lifespan.startup.complete" else "over"

    def check_return(self) -> None:
        if self.phase in ("startup", "shutdown"):
            self.mistake(f"it returned without an answer to lifespan.{self.phase}")


CALLS: dict[Any, type[Call]] = {
    "http": HttpCall,
    "websocket": WebSocketCall,
    "lifespan": LifespanCall,
}
