"""What adapters have in common: sources in, native data with places out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from egressproxy.config.native import Places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egressproxy.config.faults import Fault


class Source(NamedTuple):
    """One file that was read.

    number   its number, for `native.mark`
    name     as it was opened; a relative name in it starts from its folder
    content  its bytes
    """

    number: int
    name: str
    content: bytes


class Adapted(NamedTuple):
    """What became of one or more sources.

    data    native settings, as YAML would hold them; None where nothing could be made of the sources
    places  where they were written
    faults  what is wrong, with the directive as its path; empty means that the data says all that the sources say
    notes   what has another meaning here, or none
    """

    data: dict[str, Any] | None
    places: Places | None
    faults: Sequence[Fault]
    notes: Sequence[Fault]


class FileUnreadable(Exception):
    """A file that a directive names cannot be read. The message says why, without the name."""


class Files(Protocol):
    """The file system, as far as adapters may see it. Names are absolute, or as the user wrote them."""

    def read(self, name: str) -> Source:
        """A file that a directive names: from now on it is one of the sources, and watched. Raises FileUnreadable."""

    def matching(self, pattern: str) -> Sequence[str]:
        """Names of the files that match a shell pattern, in order."""

    def real_name(self, name: str) -> str:
        """The one name of a file that may have several, links and ways through folders followed."""

    def may_write(self, name: str) -> bool:
        """Whether this user could append to a file of that name; False where its folder does not exist."""


class At(NamedTuple):
    """A native value and the mark of what it came from. Inside it, lists and mappings may hold more of these."""

    mark: int
    value: Any


def settle(tree: At) -> tuple[Any, Any]:
    """Plain data, and its places: `Places` for a list or mapping, a mark for anything else.

    What stands in no `At` of its own has the place of what is around it.
    """
    return _settle(tree.value, tree.mark)


def _settle(value: Any, mark: int) -> tuple[Any, Any]:
    if isinstance(value, At):
        return _settle(value.value, value.mark)
    if isinstance(value, dict):
        pairs = {key: _settle(inner, mark) for key, inner in value.items()}
        keys = {key: inner.mark if isinstance(inner, At) else mark for key, inner in value.items()}
        children = {key: child for key, (_, child) in pairs.items()}
        return {key: inner for key, (inner, _) in pairs.items()}, Places(mark, children, keys)
    if isinstance(value, (list, tuple)):
        entries = [_settle(inner, mark) for inner in value]
        return [inner for inner, _ in entries], Places(mark, [child for _, child in entries], {})
    return value, mark
