"""What filters of lists and prunes have in common: switches, and labels."""

from collections.abc import Mapping, Sequence
from typing import Final

from scow.errors import InvalidArgument

Filters = Mapping[str, Sequence[str]]

_ON: Final = frozenset({"1", "true"})
_OFF: Final = frozenset({"0", "false"})


def switch(filters: Filters, name: str) -> bool | None:
    """Read a filter that is on or off; None if it isn't given. Raises InvalidArgument in docker's words."""
    values = filters.get(name) or ()
    if not values:
        return None
    words = {value.lower() for value in values}
    if words <= _ON:
        return True
    if words <= _OFF:
        return False
    raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether there is the label that `wanted` names, with its value if it gives one: `name` or `name=value`."""
    name, equals, text = wanted.partition("=")
    return name in labels and (not equals or labels[name] == text)


def has_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether all labels that are `wanted` are there."""
    return all(has_label(labels, each) for each in wanted)
