"""The rules of one account: all its enabled workflows, compiled once and found by event name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import structlog

from app.core.models import EnabledWorkflow
from app.core.pacing import hide_from_collector, pause_if_due
from app.workflows.expressions.cel_analysis import Comparison, find_comparisons
from app.workflows.expressions.cel_cost import Path
from app.workflows.expressions.cel_variables import CelVariables, Functions
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.predicate_index import PredicateIndex, Skipped, is_indexable
from app.workflows.matching.rule import Rule, compile_rule

_log = structlog.get_logger()

# Up to this many stateless rules per event name are evaluated one by one, and each has a decision of its own. More are
# indexed.
MAX_UNINDEXED = 20
# Events of patterns after which what was compiled is hidden from the garbage collector.
_HIDDEN_LEAVES = 500


@dataclass(frozen=True, slots=True)
class Candidates:
    """The workflows that an event may start or advance, and why the others are skipped."""

    stateless: list[Rule]
    stateful: list[Rule]
    skipped: list[Skipped]


class _EventRules:
    """The rules that read one event name."""

    def __init__(self, rules: list[Rule]) -> None:
        self._stateful = [rule for rule in rules if not rule.is_stateless]
        self._unindexed = [rule for rule in rules if rule.is_stateless]
        self._indexes: list[PredicateIndex[Rule]] = []
        if len(self._unindexed) > MAX_UNINDEXED:
            self._build_indexes()
        self._reads = _reads_of(self._unindexed + self._stateful)
        self._functions = _functions_of(self._unindexed + self._stateful)
        self.evaluated = len(self._unindexed) + len(self._stateful) + len(self._indexes)

    def _build_indexes(self) -> None:
        by_path: dict[str, list[tuple[Comparison, Rule]]] = {}
        unindexed = []
        for rule in self._unindexed:
            pause_if_due()
            comparisons = find_comparisons(rule.filter.text) if rule.filter else []
            equality_first = sorted(comparisons, key=lambda each: each.operator != "==")
            chosen = next(filter(is_indexable, equality_first), None)
            if chosen is None:
                unindexed.append(rule)
            else:
                by_path.setdefault(chosen.path, []).append((chosen, rule))
        self._unindexed = unindexed
        self._indexes = [PredicateIndex(path, members) for path, members in by_path.items()]

    def find_candidates(self, variables: CelVariables) -> Candidates:
        stateless, skipped, reads, functions = list(self._unindexed), [], self._reads, self._functions
        for index in self._indexes:
            found, others = index.find_candidates(variables)
            stateless += found
            if found:
                reads |= _reads_of(found)
                functions = {**functions, **_functions_of(found)}
            if others is not None:
                skipped.append(others)
        variables.expect(reads, functions)
        return Candidates(stateless, self._stateful, skipped)


def _reads_of(rules: list[Rule]) -> frozenset[Path]:
    return frozenset().union(*(rule.reads for rule in rules))


def _functions_of(rules: list[Rule]) -> Functions:
    return {name: function for rule in rules for name, function in rule.functions.items()}


class Rules:
    """All enabled workflows of one account."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.by_workflow = {rule.workflow_id: rule for rule in rules}
        by_event: dict[str, list[Rule]] = {}
        for rule in self.by_workflow.values():
            for name in rule.triggers:
                by_event.setdefault(name, []).append(rule)
        self._by_event = {name: _EventRules(found) for name, found in by_event.items()}

    def count_evaluated(self, name: str) -> int:
        """How many rules and indexes are looked at for each event of this name; 0 when no rule reads it."""
        named, on_any = self._by_event.get(name), self._by_event.get(ANY_NAME)
        return (named.evaluated if named else 0) + (on_any.evaluated if on_any and name != ANY_NAME else 0)

    def find_by_event(self, name: str) -> list[Rule]:
        """All rules that read events of this name."""
        return [rule for rule in self.by_workflow.values() if not rule.triggers.isdisjoint((name, ANY_NAME))]

    def find_candidates(self, variables: CelVariables) -> Candidates:
        """The candidate workflows of an event with these CEL variables."""
        by_name = [self._by_event.get(name) for name in dict.fromkeys((variables["event"], ANY_NAME))]
        found = [each.find_candidates(variables) for each in by_name if each is not None]
        if len(found) == 1:
            return found[0]
        return Candidates(
            [rule for each in found for rule in each.stateless],
            [rule for each in found for rule in each.stateful],
            [skipped for each in found for skipped in each.skipped],
        )


def compile_rules(workflows: Iterable[EnabledWorkflow], known: Rules | None = None) -> Rules:
    """Compile the enabled workflows of an account. Rules of unchanged workflows are taken over from `known`.

    A version that an older release saved and this one cannot compile is logged and left out: it must not prevent the
    account's events from being stored.
    """
    rules, leaves = [], 0
    for workflow in workflows:
        before = known.by_workflow.get(workflow.id) if known else None
        current = (workflow.enablement, workflow.name, workflow.triggers)
        if before is not None and (before.enablement, before.workflow, before.triggers) == current:
            rules.append(before)
            continue
        try:
            rule = compile_rule(workflow.id, workflow.name, workflow.version, workflow.document, workflow.enablement)
            rules.append(replace(rule, triggers=workflow.triggers))
            leaves += len(rule.pattern.tests)
            if leaves > _HIDDEN_LEAVES:
                hide_from_collector()
                leaves = 0
        except Exception:
            _log.exception("a workflow cannot be compiled and matches no event", workflow=workflow.name)
    return Rules(rules)
