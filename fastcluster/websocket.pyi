from collections.abc import Coroutine
from typing import Any

from fastcluster.websocket_link import Link

class WebSocket(Link):
    def receive(self) -> Coroutine[Any, Any, dict[str, Any]]: ...
    def send(self, message: dict[str, Any]) -> Coroutine[Any, Any, None]: ...
