"""Domains and problems in the part of PDDL that most planning data sets use: STRIPS with types, negative preconditions,
equality and constants (Ghallab et al. 1998; Fox and Long, JAIR 20, 2003, level 1). What lies beyond, such as
quantifiers, conditional effects and numbers, is refused by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rewards.planning.lists import Nested, PddlError, read, words_of

OBJECT = "object"
"""The type above all others, and of what names none."""
SUPPORTED = frozenset({":strips", ":typing", ":negative-preconditions", ":equality"})
EQUAL = "="

Atom = tuple[str, ...]
"""A predicate with its arguments; variables begin with a question mark."""
Typed = Mapping[str, frozenset[str]]
"""Names, each with the types of which it may be one."""


@dataclass(frozen=True, slots=True)
class Literal:
    """An atom that must hold, or must not."""

    atom: Atom
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    parameters: Typed
    """In their order."""
    precondition: tuple[Literal, ...]
    effect: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """Attributes:
    above: of each type, itself and all above it.
    predicates: how many arguments each takes.
    """

    name: str
    above: Typed
    predicates: Mapping[str, int]
    constants: Typed
    actions: Mapping[str, Action]


@dataclass(frozen=True, slots=True)
class Problem:
    """Attributes: objects: with the domain's constants."""

    domain: Domain
    objects: Typed
    start: frozenset[Atom]
    goal: tuple[Literal, ...]


def read_domain(text: str) -> Domain:
    """Raises: PddlError."""
    name, sections = _sections(read(text), "domain")
    beyond = sorted(set(_flat(sections, ":requirements")) - SUPPORTED)
    if beyond:
        raise PddlError(f"the domain requires {', '.join(beyond)}; supported are {', '.join(sorted(SUPPORTED))}")
    above = _above(_typed(_flat(sections, ":types")))
    predicates = {}
    for predicate in _lists(sections, ":predicates"):
        words = words_of(predicate, "a predicate")
        predicates[words[0]] = len(_typed(words[1:]))
    domain = Domain(name, above, predicates, _typed(_flat(sections, ":constants")), {})
    actions = [_action(body, domain) for key, body in sections if key == ":action"]
    return Domain(name, above, predicates, domain.constants, {action.name: action for action in actions})


def read_problem(text: str, domain: Domain) -> Problem:
    """Raises: PddlError, also where it is a problem of another domain."""
    _, sections = _sections(read(text), "problem")
    of = _flat(sections, ":domain")
    if of != [domain.name]:
        raise PddlError(f"the problem is of domain {' '.join(of)}, not {domain.name}")
    objects = {**domain.constants, **_typed(_flat(sections, ":objects"))}
    start = [_literal(fact, domain, objects) for fact in _lists(sections, ":init")]
    goals = [body for key, body in sections if key == ":goal"]
    if len(goals) != 1 or len(goals[0]) != 1:
        raise PddlError("a problem has one goal")
    goal = tuple(_conjunction(goals[0][0], domain, objects))
    return Problem(domain, objects, frozenset(fact.atom for fact in start if fact.holds), goal)


def _sections(file: list[Nested], kind: str) -> tuple[str, list[tuple[str, list[Nested]]]]:
    """The name of what a file defines, and its sections with their keys."""
    head = file[1] if len(file) > 1 else ""
    if file[:1] != ["define"] or not isinstance(head, list) or head[:1] != [kind] or len(head) != 2:
        raise PddlError(f"no (define ({kind} NAME) ...)")
    found = []
    for section in file[2:]:
        if isinstance(section, str) or not section or not isinstance(section[0], str):
            raise PddlError(f"no section: {section}")
        found.append((section[0], section[1:]))
    return str(head[1]), found


def _lists(sections: Sequence[tuple[str, list[Nested]]], key: str) -> Iterator[Nested]:
    for name, body in sections:
        if name == key:
            yield from body


def _flat(sections: Sequence[tuple[str, list[Nested]]], key: str) -> list[str]:
    """Words of a section; `(either a b)` becomes one word, `a|b`."""
    return _words(list(_lists(sections, key)))


def _words(body: list[Nested]) -> list[str]:
    found = []
    for word in body:
        if isinstance(word, list):
            either = words_of(word, "a type")
            if either[:1] != ["either"]:
                raise PddlError(f"no type: {' '.join(either)}")
            word = "|".join(either[1:])
        found.append(word)
    return found


def _typed(words: list[str]) -> dict[str, frozenset[str]]:
    """`a b - t c` is a and b of type t, and c of type object."""
    found: dict[str, frozenset[str]] = {}
    waiting: list[str] = []
    rest = iter(words)
    for word in rest:
        if word != "-":
            waiting.append(word)
            continue
        kinds = next(rest, "")
        if not kinds or not waiting:
            raise PddlError(f"a type is missing in: {' '.join(words)}")
        found |= dict.fromkeys(waiting, frozenset(kinds.split("|")))
        waiting = []
    return found | dict.fromkeys(waiting, frozenset({OBJECT}))


def _above(direct: Typed) -> dict[str, frozenset[str]]:
    """From each type's direct parents to all that lie above it."""
    found: dict[str, frozenset[str]] = {OBJECT: frozenset({OBJECT})}
    for kind in direct:
        seen, waiting = set(), [kind]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += direct.get(one, frozenset())
        found[kind] = frozenset(seen | {OBJECT})
    return found


def _action(body: list[Nested], domain: Domain) -> Action:
    if not body or not isinstance(body[0], str) or len(body) % 2 == 0:
        raise PddlError(f"no action: {body}")
    parts = {str(key): value for key, value in zip(body[1::2], body[2::2], strict=True)}
    unknown = sorted(parts.keys() - {":parameters", ":precondition", ":effect"})
    if unknown:
        raise PddlError(f"action {body[0]} has {', '.join(unknown)}, which is not supported")
    given = parts.get(":parameters", [])
    parameters = _typed(_words(given if isinstance(given, list) else [given]))
    names = {**domain.constants, **parameters}
    needs = tuple(_conjunction(parts.get(":precondition", []), domain, names))
    does = tuple(_conjunction(parts.get(":effect", []), domain, names))
    if any(literal.atom[0] == EQUAL for literal in does):
        raise PddlError(f"action {body[0]} changes what is equal")
    return Action(body[0], parameters, needs, does)


def _conjunction(formula: Nested, domain: Domain, names: Typed) -> Iterator[Literal]:
    """The literals of `(and ...)`, of one literal, or of nothing."""
    if formula == []:
        return
    if isinstance(formula, list) and formula[0] == "and":
        for part in formula[1:]:
            yield from _conjunction(part, domain, names)
    else:
        yield _literal(formula, domain, names)


def _literal(formula: Nested, domain: Domain, names: Typed) -> Literal:
    if isinstance(formula, list) and formula[:1] == ["not"] and len(formula) == 2:
        inner = _literal(formula[1], domain, names)
        return Literal(inner.atom, not inner.holds)
    atom = tuple(words_of(formula, "a fact"))
    if not atom or (atom[0] != EQUAL and atom[0] not in domain.predicates):
        raise PddlError(f"{atom[0] if atom else '()'} is no predicate of domain {domain.name}")
    takes = 2 if atom[0] == EQUAL else domain.predicates[atom[0]]
    if len(atom) != takes + 1:
        raise PddlError(f"{atom[0]} takes {takes} arguments: ({' '.join(atom)})")
    unknown = [name for name in atom[1:] if name not in names]
    if unknown:
        raise PddlError(f"nobody declares {', '.join(unknown)}: ({' '.join(atom)})")
    return Literal(atom)
