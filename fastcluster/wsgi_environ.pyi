class EnvironMaker:
    def __init__(
        self, base: dict[str, object], root_path: str = "", underscores: bool = False
    ) -> None: ...
