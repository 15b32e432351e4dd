from fastcluster.config import Config
from fastcluster.exchange import Handler

class HealthHandler(Handler):
    def __init__(self, inner: Handler, config: Config) -> None: ...
