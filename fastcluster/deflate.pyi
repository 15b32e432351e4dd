class Deflate:
    answer: bytes
    own_bits: int
    client_bits: int
    own_takeover: bool
    client_takeover: bool

def offers_in(text: str, /) -> list[tuple[str, list[tuple[str, str | None]]]]: ...
def negotiate(text: str, /) -> Deflate | None: ...
