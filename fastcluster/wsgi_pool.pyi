from threading import Lock

from fastcluster.wsgi_call import Call

class ThreadCall(Call): ...

class Pool:
    app_lock: Lock | None
    def __init__(self, size: int, limit: int, app_lock: Lock | None = None) -> None: ...
    def close(self, timeout_s: float) -> None: ...
