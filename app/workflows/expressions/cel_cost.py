"""The cost of a CEL text: what it reads of an event, and an upper limit of the work to evaluate it.

The engine cannot be interrupted, so the limit is computed before it starts, from the tokens of the text and the sizes of
the values that it reads. The engine copies a value wherever the text mentions it, and the whole result of `map` and `filter`
in each of their rounds; a regular expression is compiled for each call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from app.workflows.expressions.cel_analysis import PLAIN_TEXT, opens_loop, tokenize
from app.workflows.expressions.regex_cost import RegexCost, literal_cost

Path = tuple[str, ...]

# Units (about 0.1 µs each) of one evaluation, one token, one round of a loop, one value that is copied, a call of a Python
# function, one value that it takes, and a character that it takes or makes a text of.
_EVALUATION, _TOKEN, _ROUND, _DUPLICATE, _CALL, _ARGUMENT, _CHARACTER = 10, 0.5, 3, 0.75, 40, 10, 2
# Functions that take more for a character: `split` makes a value of it, `duration` a number.
_PER_CHARACTER = {"split": 30, "duration": 8}
# They copy their result in each round.
_COPYING_LOOPS = frozenset(("map", "filter"))
_CHARACTERS_PER_VALUE = 100
# Characters that `string` makes of a number, at most.
_NUMBER_CHARACTERS = 350


@dataclass(slots=True)
class Size:
    """The size of a value: values in it (the names of members count), its own length, that of the longest list or object in
    it, and the characters of all its texts. Of the members of its members: the values of the largest, and the values and the
    lengths of all lists and objects."""

    values: int = 0
    length: int = 0
    max_length: int = 0
    characters: int = 0
    largest_inner: int = 1
    inner_values: int = 0
    inner_lengths: int = 0

    @property
    def duplicate_units(self) -> float:
        """Units to copy it once."""
        return _DUPLICATE * self.values + self.characters / _CHARACTERS_PER_VALUE


@dataclass(slots=True)
class _Loop:
    """A loop: the position of its bracket, what it loops over (a path of the event; the variable `of` another loop; something in
    either if not `is_exact`; or unknown), and what is in its body: how often its variable is mentioned as a whole, and its
    members, the variables of outer loops that are (`outer_mentions`), and the characters of texts (`literals`)."""

    at: int
    parent: int | None
    name: str
    variable: str
    receiver: Path | None = None
    of: int | None = None
    is_exact: bool = False
    tokens: int = 0
    additions: int = 0
    mentions: int = 0
    selections: int = 0
    outer_mentions: list[int] = field(default_factory=list)
    literals: int = 0


@dataclass(slots=True)
class _Call:
    """A call of a Python function or of `matches`: the positions of its first (None: unknown) and last token, and the commas
    and the characters of texts between them."""

    name: str
    first: int | None
    last: int
    loop: int | None
    regex: RegexCost | None
    commas: int = 0
    literals: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What determines the work of a text. `additions` and `literals` outside of loops; `mentions`: (position, path, index of the
    loop around it); `reads`: all paths."""

    tokens: int
    additions: int
    literals: int
    commas: int
    splits: bool
    mentions: list[tuple[int, Path, int | None]]
    loops: list[_Loop]
    calls: list[_Call]
    reads: frozenset[Path] = field(default_factory=frozenset)

    def units(self, sizes: Mapping[Path, Size]) -> int:
        """The maximum number of units to evaluate the text over values with these sizes."""
        return _Estimate(self, sizes).total()


class _Estimate:
    """One estimate of a cost: upper limits. `rounds` and `ranges` hold for each loop how many rounds it makes, and how many
    values it goes through in all of them; `values`, `max_length` and `text` (characters) limit what an unknown value may be."""

    def __init__(self, cost: Cost, sizes: Mapping[Path, Size]) -> None:
        self.cost = cost
        self.sizes = sizes
        characters = sum(size.characters for size in sizes.values())
        split = characters + cost.literals + sum(loop.literals for loop in cost.loops) if cost.splits else 0
        self.text = (1 + cost.additions) * (characters + cost.literals)
        growth = 1 + cost.additions + sum(loop.additions for loop in cost.loops)
        self.values = cost.commas + 1 + growth * (split + sum(size.values for size in sizes.values()))
        self.max_length = cost.commas + 1 + growth * max([split, *(size.max_length for size in sizes.values())])
        self.rounds: list[int] = []
        self.ranges: list[int] = []

    def total(self) -> int:
        """The units of everything."""
        units = _EVALUATION + _TOKEN * self.cost.tokens
        units += sum(self._loop(number, loop) for number, loop in enumerate(self.cost.loops))
        units += sum(
            self._rounds(loop) * (1 + self._additions(loop)) * (1 + self.sizes[path].duplicate_units)
            for _, path, loop in self.cost.mentions
        )
        return int(units + sum(map(self._call, self.cost.calls)))

    def _rounds(self, loop: int | None) -> int:
        return 1 if loop is None else self.rounds[loop]

    def _additions(self, loop: int | None) -> int:
        return self.cost.additions if loop is None else self.cost.loops[loop].additions

    def _loop(self, number: int, loop: _Loop) -> float:
        outer = self._rounds(loop.parent)
        rounds, inside = self._range(loop, outer)
        self.rounds.append(rounds)
        self.ranges.append(inside)
        from_outer = sum(self.ranges[of] * min(rounds, self.max_length) for of in loop.outer_mentions)
        units = rounds * (_ROUND + _TOKEN * loop.tokens)
        units += (inside * (1 + loop.mentions) + from_outer) * _DUPLICATE * (1 + loop.additions)
        text = self._text(number, loop, outer)
        units += loop.additions * text / _CHARACTERS_PER_VALUE
        if loop.name in _COPYING_LOOPS:
            self.text = max(self.text, text)
            mentioned = sum(self.sizes[path].values for _, path, at in self.cost.mentions if at == number)
            result = rounds * (1 + mentioned) + from_outer
            if loop.name == "map" and not loop.mentions and loop.receiver is not None:
                result += rounds * loop.selections * self.sizes[loop.receiver].largest_inner
            else:
                result += inside
            units += 2 * (rounds // max(1, outer)) * result + self._additions(loop.parent) * result
            self.values += result
            self.max_length = max(self.max_length, rounds)
        return units

    def _text(self, number: int, loop: _Loop, outer: int) -> int:
        """The characters that all rounds of a loop make together: each `+` may double what there was before the loop."""
        rounds = self.rounds[number]
        # An inner loop goes through its range in each round of the outer one, and may read the outer range in each of its rounds.
        times = 1 if loop.parent is None else outer + rounds // max(1, outer)
        return (1 + loop.additions) * (self.text * times + rounds * (self._mentioned(number) + loop.literals))

    def _mentioned(self, number: int) -> int:
        """The characters of what a loop mentions of the event."""
        return sum(self.sizes[path].characters for _, path, at in self.cost.mentions if at == number)

    def _range(self, loop: _Loop, outer: int) -> tuple[int, int]:
        """How many rounds a loop makes, and how many values it goes through."""
        if loop.of is not None:
            times = 1 if loop.of == loop.parent else outer
            whole = self.cost.loops[loop.of]
            if whole.receiver is None or not whole.is_exact or loop.is_exact:
                return times * self.ranges[loop.of], times * self.ranges[loop.of]
            size = self.sizes[whole.receiver]
            times *= self._rounds(whole.parent)
            return times * size.inner_lengths, times * size.inner_values
        if loop.receiver is not None:
            size = self.sizes[loop.receiver]
            return outer * (size.length if loop.is_exact else size.max_length), outer * size.values
        return outer * self.max_length, outer * self.values

    def _call(self, call: _Call) -> float:
        first = 0 if call.first is None else call.first
        found = [self.sizes[path] for at, path, _ in self.cost.mentions if first <= at <= call.last]
        values = call.commas + sum(size.values for size in found)
        characters = call.literals + sum(size.characters for size in found)
        if call.first is None:
            values, characters = self.values, self.text
        if call.regex is not None:
            return call.regex.compile + characters * call.regex.search
        per_character = _PER_CHARACTER.get(call.name, _CHARACTER)
        units = self._rounds(call.loop) * (_CALL + _ARGUMENT * values + per_character * characters)
        if call.loop is not None:
            # Over all rounds, the reads of the loop variable add up to its whole range.
            outer, growth = self._rounds(self.cost.loops[call.loop].parent), 1 + self._additions(call.loop)
            mentioned = self._rounds(call.loop) * self._mentioned(call.loop) if growth > 1 else 0
            units += _ARGUMENT * self.ranges[call.loop] + per_character * growth * (outer * self.text + mentioned)
        return units


def analyze(text: str, roots: Collection[str], functions: Collection[str]) -> Cost:
    """Analyze a valid text. `roots` are the variables of an event, `functions` those that are written in Python."""
    return _Analysis(text, frozenset(roots), frozenset(functions)).run()


class _Analysis:
    def __init__(self, text: str, roots: frozenset[str], functions: frozenset[str]) -> None:
        tokens = tokenize(text)
        self.words = [token.group() for token in tokens]
        self.kinds = [token.lastgroup for token in tokens]
        self.roots = roots
        self.functions = functions
        self.mentions: list[tuple[int, Path, int | None]] = []
        self.loops: list[_Loop] = []
        self.calls: list[_Call] = []
        # For each open bracket: the index of its loop, and the call that it belongs to.
        self.opened: list[tuple[int | None, _Call | None]] = []
        self.literals = 0

    def run(self) -> Cost:
        for index, word in enumerate(self.words):
            loop = self._current_loop()
            if loop is not None:
                self.loops[loop].tokens += 1
                self.loops[loop].additions += word == "+"
            if word in ("(", "[", "{"):
                self._open(index)
            elif word in (")", "]", "}"):
                _, call = self.opened.pop() if self.opened else (None, None)
                if call is not None:
                    self._close(call, index)
            elif self.kinds[index] in ("text", "raw"):
                self._add_literal(len(word))
            elif self.kinds[index] == "word" and word == "string":
                self._add_literal(_NUMBER_CHARACTERS)
            elif self.kinds[index] == "word" and self.words[index - 1 : index] != ["."] and not self._is_call(index):
                self._mention(index)
        # A loop variable with the name of a variable hides it: then its members are not known.
        hidden = {loop.variable for loop in self.loops}
        reads = frozenset(path[:1] if path[0] in hidden else path for _, path, _ in self.mentions)
        mentions = [(at, path if path in reads else path[:1], loop) for at, path, loop in self.mentions]
        for each in self.loops:
            each.receiver = each.receiver if each.receiver in reads else None
        return Cost(
            tokens=len(self.words),
            additions=self.words.count("+") - sum(loop.additions for loop in self.loops),
            literals=self.literals,
            commas=self.words.count(","),
            splits="split" in self.words,
            mentions=mentions,
            loops=self.loops,
            calls=self.calls,
            reads=reads,
        )

    def _add_literal(self, characters: int) -> None:
        loop = self._current_loop()
        if loop is None:
            self.literals += characters
        else:
            self.loops[loop].literals += characters

    def _close(self, call: _Call, index: int) -> None:
        """A call ends at this token."""
        call.last = index
        if call.first is None:
            return
        inside = range(call.first, index)
        if any(loop.at in inside and loop.additions for loop in self.loops):
            call.first = None
        call.commas = self.words[call.first : index].count(",")
        call.literals = sum(len(self.words[at]) for at in inside if self.kinds[at] in ("text", "raw"))

    def _current_loop(self) -> int | None:
        return next((loop for loop, _ in reversed(self.opened) if loop is not None), None)

    def _is_call(self, index: int) -> bool:
        return self.words[index + 1 : index + 2] == ["("]

    def _loop_of(self, name: str) -> int | None:
        """The innermost open loop with this variable."""
        open_loops = [loop for loop, _ in self.opened if loop is not None]
        return next((loop for loop in reversed(open_loops) if self.loops[loop].variable == name), None)

    def _mention(self, index: int) -> None:
        name = self.words[index]
        loop = self._loop_of(name)
        if loop is not None and not opens_loop(self.words, index - 1):
            self._mention_variable(index, loop)
        if name in self.roots:
            self.mentions.append((index, self._path(index), self._current_loop()))

    def _mention_variable(self, index: int, loop: int) -> None:
        """A loop variable: the engine copies the element, except where a member of it is selected."""
        current = self._current_loop()
        if self.words[index + 1 : index + 2] in (["."], ["["]):
            self.loops[loop].selections += 1
        elif current is not None and current != loop:
            self.loops[current].outer_mentions.append(loop)
        else:
            self.loops[loop].mentions += 1

    def _path(self, index: int) -> Path:
        """The path that begins at a variable, without a function that is called on it: data.a["b c"].size() is data, a, b c."""
        return tuple(name for name, _ in self._members(index))

    def _end(self, index: int) -> int:
        """The position after the path that begins at a variable."""
        return [end for _, end in self._members(index)][-1]

    def _members(self, index: int) -> Iterator[tuple[str, int]]:
        """The names of a path, and the position after each."""
        index += 1
        yield self.words[index - 1], index
        while True:
            following = self.words[index : index + 3]
            if following[:1] == ["."] and "".join(following[1:2]).isidentifier() and following[2:] != ["("]:
                index += 2
                yield following[1], index
            elif following[:1] == ["["] and following[2:] == ["]"] and (text := PLAIN_TEXT.fullmatch(following[1])):
                index += 3
                yield text[2], index
            else:
                return

    def _open(self, index: int) -> None:
        words = self.words
        name = words[index - 1] if index and words[index] == "(" else ""
        is_method = words[index - 2 : index - 1] == ["."] and index > 2
        if opens_loop(self.words, index):
            self.loops.append(self._loop(index, name))
            self.opened.append((len(self.loops) - 1, None))
            return
        call = None
        if name in self.functions or name == "matches":
            first = self._receiver(index - 2) if is_method else index
            regex = self._regex(index) if name == "matches" else None
            call = _Call(name, first, index, self._current_loop(), regex)
            self.calls.append(call)
        self.opened.append((None, call))

    def _loop(self, index: int, name: str) -> _Loop:
        first = self._receiver(index - 2)
        loop = _Loop(index, self._current_loop(), name, "".join(self.words[index + 1 : index + 2]))
        if first is not None:
            loop.of = self._loop_of(self.words[first])
            if loop.of is not None:
                loop.is_exact = first == index - 3
            elif self.words[first] in self.roots:
                loop.receiver = self._path(first)
                loop.is_exact = self._end(first) == index - 2
        return loop

    def _receiver(self, dot: int) -> int | None:
        """The position where the path before a dot begins, with indexes in it; None if something else is there, such as a
        call."""
        index = dot - 1
        while index >= 0:
            if self.words[index] == "]":
                index = self._opening(index) - 1
                if self.kinds[index] != "word" and self.words[index] != "]":
                    return None
                continue
            if self.kinds[index] != "word":
                return index if self.kinds[index] in ("text", "raw") else None
            if self.words[index - 1 : index] != ["."]:
                return index
            index -= 2
        return None

    def _opening(self, index: int) -> int:
        """The position of the bracket that the one at `index` closes."""
        depth = 0
        while index > 0:
            depth += (self.words[index] in (")", "]", "}")) - (self.words[index] in ("(", "[", "{"))
            if depth == 0:
                break
            index -= 1
        return index

    def _regex(self, index: int) -> RegexCost:
        """The cost of the pattern of a call of `matches`, its last argument."""
        depth, close = 0, index
        for close in range(index, len(self.words)):
            depth += (self.words[close] in ("(", "[", "{")) - (self.words[close] in (")", "]", "}"))
            if depth == 0:
                break
        is_alone = self.words[close - 2] in ("(", ",")
        return literal_cost(self.kinds[close - 1], self.words[close - 1], is_alone=is_alone)
