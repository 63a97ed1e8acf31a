"""The native module: moves bytes between the cluster and Python. `_wire.py` says what the tuples hold."""

from typing import Any, Final

VERSION: Final[str]
PAYLOAD_BYTES_MAX: Final[int]
FAILURE_BYTES_MAX: Final[int]
CACHE_KEY_BYTES_MAX: Final[int]
NAME_BYTES_MAX: Final[int]
CODEC_NAME_BYTES_MAX: Final[int]
SPAWN_STEPS_MAX: Final[int]
SPAWN_BYTES_MAX: Final[int]
CREDIT_MAX: Final[int]
PRIORITY_MAX: Final[int]
RETRIES_MAX: Final[int]
DELAY_MS_MAX: Final[int]

class Port:
    """One session's connection. Connects in the background; a call in a forked child raises `RuntimeError`."""

    def __new__(
        cls,
        address: str | None,
        ca: str | None,
        session: bytes,
        agent: str,
        connect_timeout: float,
        served: list[tuple[str, list[str], list[str], int, int]] | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> Port: ...
    def fileno(self) -> int: ...
    def poll(self, max: int, /) -> list[tuple[Any, ...]]: ...
    def post_batch(self, batch: list[tuple[Any, ...]], /) -> None: ...
    def abandon(self, kind: int, id: bytes, lease: int, /) -> None: ...
    def drain(self) -> None: ...
    def held(self) -> int: ...
    def close(self, timeout: float, /) -> None: ...
