"""A lane's role table made quick to ask: its rows as a tree of the record's own shape. Pure.

`table_of` compiles the rows of `lanemark.lanes.*_roles` for one metric and for ranks on a processor or not, because
roles may depend on either. `lanemark.judge.facts` walks a record along the tree.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal, NamedTuple

from lanemark.lanes.shared_roles import ROLES, Role, RoleName

Weight = RoleName | Literal["unlisted"]
_IGNORED: Final = frozenset({"noise", "gate"})


#: Where redaction may have put a word in the place of a value.
_REDACTABLE: Final = ("environment.", "source.argv", "case.command", "sparse.launcher_args", "sparse.selectors")


class Spot(NamedTuple):
    """What a field is to a comparison: its role, the factor that it belongs to, whether lacking it is a value too."""

    role: Weight
    factor: str
    unset: bool = False


class Node:
    """One place of the tree.

    Attributes:
        path, name: of the field, and the last step of it.
        role, factor, spot: what it is to a comparison; of a container, the strongest that it holds.
        children, open, item: the places below: by name, of any other name (`*`), of a list's items.
        keys: what tells a list's items apart; `joins`: an item's own name is part of its factor.
        unset, optional, ignored, redactable: lacking it is a value; a record may lack it; it is noise or a gate; a word
        may
            stand for its value.
        names, wanted: the names of all children; those that matter, each as (name, path, whether it is one plain field,
            place).
    """

    __slots__ = (
        "children", "factor", "ignored", "item", "joins", "keys", "name", "names", "open", "optional", "path",
        "redactable", "role", "spot", "unset", "wanted",
    )  # fmt: skip

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path.rpartition(".")[2]
        self.role: RoleName | None = None
        self.factor = path
        self.children: dict[str, Node] = {}
        self.open: Node | None = None  # `*`: what any member is
        self.item: Node | None = None  # of a list of objects
        self.keys: tuple[tuple[str, ...], ...] = ()  # what tells a list's items apart
        self.joins = False  # an item's own name is part of its factor
        self.unset = False
        self.optional = False
        self.ignored = False
        self.redactable = path.startswith(_REDACTABLE)
        self.spot = Spot("unlisted", path)
        self.names: frozenset[str] = frozenset()  # of all children
        self.wanted: tuple[tuple[str, str, bool, Node], ...] = ()  # those that matter: name, path, plain, child

    def is_plain(self) -> bool:
        """Whether it is one field and nothing has to be done to its value."""
        return not self.children and self.open is None and self.item is None and not self.redactable


class Table(NamedTuple):
    """A compiled table: its tree, what the fields outside lists are, and the rows it was made from."""

    root: Node
    spots: dict[str, Spot]
    rows: tuple[Role, ...]


def rows_of(lane: str) -> tuple[Role, ...]:
    """The rows of a lane's table. Raises KeyError for what is no lane."""
    if lane == "training":
        from lanemark.lanes.training_roles import TRAINING_ROLES

        return TRAINING_ROLES
    if lane == "sparse":
        from lanemark.lanes.sparse_roles import SPARSE_ROLES

        return SPARSE_ROLES
    if lane == "promotion":
        from lanemark.lanes.promotion_roles import PROMOTION_ROLES

        return PROMOTION_ROLES
    raise KeyError(lane)


@cache
def table_of(lane: str, metric: str, on_cpu: bool, minor: int = 0) -> Table:  # noqa: FBT001 - a key of the cache
    """The compiled table of a lane for one metric and records of one minor version. Raises KeyError for no lane."""
    root, spots = Node(""), dict[str, Spot]()
    rows = rows_of(lane)
    for row in rows:
        _grow(root, row, role_in(row, metric, on_cpu=on_cpu), minor)
    _finish(root, spots)
    return Table(root, spots, rows)


def role_in(row: Role, metric: str, *, on_cpu: bool) -> RoleName:
    """A row's role for a metric, on a processor or not."""
    for condition, instead in row.instead:
        if condition == metric or (condition == "cpu" and on_cpu):
            return instead
    return row.role


def _grow(root: Node, row: Role, role: RoleName, minor: int) -> None:
    """Put a row's place into the tree, with the places on the way to it."""
    node, path = root, ""
    for step in _steps(row.path):
        if step == "*":
            node.open = node = node.open or Node(path + ".*")
            continue
        name, bracket, keys = step.partition("[")
        path = f"{path}.{name}" if path else name
        node = node.children.setdefault(name, Node(path))
        if bracket:
            node.keys = tuple(tuple(key.split(".")) for key in keys.rstrip("]").split("+") if key)
            node.joins = keys == "name]"
            path += "[]"
            node.item = node = node.item or Node(path)
            node.unset = path.startswith("environment.")
    node.role, node.factor = role, row.factor or row.path
    node.unset = row.path.startswith("environment.")
    node.optional = row.optional or row.since > minor
    node.ignored = role in _IGNORED


def _steps(path: str) -> list[str]:
    """`a.b[c.d+e].f` cut at the dots that are outside brackets."""
    steps, depth, begin = [], 0, 0
    for place, char in enumerate(path):
        depth += (char == "[") - (char == "]")
        if char == "." and not depth:
            steps.append(path[begin:place])
            begin = place + 1
    return [*steps, path[begin:]]


def _finish(node: Node, spots: dict[str, Spot]) -> RoleName:
    """Settle what a place is, and what matters below it. Returns the strongest role there."""
    below = [*node.children.values(), *(inner for inner in (node.open, node.item) if inner is not None)]
    strongest = node.role or "noise"
    if node.role is None:
        strongest = min((_finish(child, spots) for child in below), key=ROLES.index)
        # A closed set of names is walked even where all of it is noise, so that a name that nobody knows is noticed.
        node.ignored = node.open is not None and all(child.ignored for child in below)
        node.optional = all(child.optional for child in below)
    node.role = strongest
    node.spot = Spot("unlisted" if strongest in _IGNORED else strongest, node.factor, node.unset)
    node.names = frozenset(node.children)
    node.wanted = tuple(
        (child.name, child.path, child.is_plain(), child) for child in node.children.values() if not child.ignored
    )
    spots[node.path] = node.spot
    return strongest
