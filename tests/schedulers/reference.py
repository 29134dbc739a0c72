"""ASHA, its stopping variant, successive halving and Hyperband once more: slow, obvious, and sharing nothing with the package.

Written from the papers' pseudocode: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, Algorithm 2;
Li et al., "Hyperband", JMLR 2018, Algorithm 1. Everything is looked up and sorted afresh each time. A scheduler is told
`record(...)` for each result of a turn and then asked `jobs(free, fresh)`: a list of ("new", bracket, until) and
("train", trial, until). `dropped` is what the scheduler under test forgot: it keeps its place and is never a job again.

Integer reduction factors only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Job = tuple[str, int, int]


def rungs(r: int, R: int, eta: int) -> list[int]:
    below, level = [], r
    while level < R and not level * level * eta > R * R:
        below.append(level)
        level = level * eta
    return below + [R]


@dataclass
class Result:
    trial: int
    score: float
    over: bool      # done, failed or NaN: it can be trained no further


@dataclass
class Table:
    """Per rung, everybody who came there; and who has left it upwards."""

    budgets: list[int]
    came: list[list[Result]] = field(default_factory=list)
    promoted: list[set[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.came = [[] for _ in self.budgets]
        self.promoted = [set() for _ in self.budgets]

    def top(self, k: int, number: int) -> list[Result]:
        finite = [result for result in self.came[k] if result.score != math.inf]
        return sorted(finite, key=lambda result: (result.score, result.trial))[:number]


class PromotionReference:
    """Algorithm 2, several brackets of it."""

    def __init__(self, max_t: int, grace: int, eta: int, brackets: int = 1) -> None:
        budgets = rungs(grace, max_t, eta)
        self.eta = eta
        self.tables = [Table(budgets[s:]) for s in range(brackets)]
        s_max = len(budgets) - 1
        self.sizes = [math.ceil((s_max + 1) / (s + 1) * eta**s) for s in range(s_max, s_max - brackets, -1)]
        self.begun = [0] * brackets
        self.dropped: set[int] = set()

    def record(self, trial: int, step: int, score: float, over: bool, bracket: int) -> None:
        table = self.tables[bracket]
        table.came[table.budgets.index(step)].append(Result(trial, score, over))

    def jobs(self, free: int, fresh: int) -> list[Job]:
        found: list[Job] = []
        while len(found) < free and (job := self.get_job(fresh)) is not None:
            fresh -= job[0] == "new"
            found.append(job)
        return found

    def get_job(self, fresh: int) -> Job | None:
        for table in self.tables:
            for k in reversed(range(len(table.budgets) - 1)):
                candidates = table.top(k, len(table.came[k]) // self.eta)
                promotable = [
                    c for c in candidates if c.trial not in table.promoted[k] and not c.over and c.trial not in self.dropped
                ]
                if promotable:
                    table.promoted[k].add(promotable[0].trial)
                    return ("train", promotable[0].trial, table.budgets[k + 1])
        if fresh == 0:
            return None
        return self.fresh_job()

    def fresh_job(self) -> Job:
        behind = [(count + 1) / size for count, size in zip(self.begun, self.sizes)]
        s = min(s for s in range(len(behind)) if math.isclose(behind[s], min(behind)))
        self.begun[s] += 1
        return ("new", s, self.tables[s].budgets[0])


class StoppingReference(PromotionReference):
    """The verdict falls once, when the whole turn is recorded; who goes on is served before fresh trials."""

    def __init__(self, max_t: int, grace: int, eta: int, brackets: int = 1) -> None:
        super().__init__(max_t, grace, eta, brackets)
        self.unjudged: list[tuple[int, int, Result]] = []
        self.passed: list[tuple[int, int, Result]] = []
        self.stopped: set[int] = set()

    def record(self, trial: int, step: int, score: float, over: bool, bracket: int) -> None:
        super().record(trial, step, score, over, bracket)
        table = self.tables[bracket]
        k = table.budgets.index(step)
        if not over and k < len(table.budgets) - 1:
            self.unjudged.append((bracket, k, table.came[k][-1]))

    def jobs(self, free: int, fresh: int) -> list[Job]:
        for bracket, k, result in self.unjudged:
            table = self.tables[bracket]
            if result in table.top(k, max(1, len(table.came[k]) // self.eta)):
                self.passed.append((bracket, k, result))
            else:
                self.stopped.add(result.trial)
        self.unjudged = []
        return super().jobs(free, fresh)

    def get_job(self, fresh: int) -> Job | None:
        if self.passed:
            first = min(self.passed, key=lambda entry: (entry[0], -entry[1], entry[2].score, entry[2].trial))
            self.passed.remove(first)
            bracket, k, result = first
            return ("train", result.trial, self.tables[bracket].budgets[k + 1])
        if fresh == 0:
            return None
        return self.fresh_job()


@dataclass
class SyncBracket:
    """One run of the inner loop of Algorithm 1: n_i trials of r_i steps, then the best n_i / eta of them."""

    number: int
    planned: int
    budgets: list[int]
    started: int = 0
    rung: int = 0
    members: list[int] = field(default_factory=list)        # T, the trials of this rung
    issued: list[int] = field(default_factory=list)         # those of T that were sent on their way
    results: dict[int, Result] = field(default_factory=dict)


class SynchronousReference:
    """Brackets in the order of `plans`, over again; the oldest bracket that can use a free slot gets it."""

    def __init__(self, plans: list[tuple[int, list[int]]], eta: int) -> None:
        self.plans, self.eta = plans, eta
        self.brackets: list[SyncBracket] = []
        self.home: dict[int, SyncBracket] = {}
        self.born = 0
        self.dropped: set[int] = set()

    def record(self, trial: int, step: int, score: float, over: bool, bracket: int) -> None:
        self.brackets[bracket].results[trial] = Result(trial, score, over)

    def jobs(self, free: int, fresh: int) -> list[Job]:
        found: list[Job] = []
        if free == 0:
            return found
        for bracket in self.brackets:
            self.close_rung(bracket, fresh)
        while len(found) < free and (job := self.get_job(fresh)) is not None:
            fresh -= job[0] == "new"
            found.append(job)
        return found

    def get_job(self, fresh: int) -> Job | None:
        for bracket in self.brackets:
            if bracket.rung == 0 and bracket.started < bracket.planned and fresh > 0:
                return self.start(bracket)
            waiting = [trial for trial in bracket.members if trial not in bracket.issued]
            if bracket.rung > 0 and waiting:
                bracket.issued.append(waiting[0])
                return ("train", waiting[0], bracket.budgets[bracket.rung])
        if fresh == 0:
            return None
        planned, budgets = self.plans[len(self.brackets) % len(self.plans)]
        self.brackets.append(SyncBracket(len(self.brackets), planned, budgets))
        return self.start(self.brackets[-1])

    def start(self, bracket: SyncBracket) -> Job:
        bracket.members.append(self.born)
        bracket.issued.append(self.born)
        bracket.started += 1
        self.born += 1
        return ("new", bracket.number, bracket.budgets[0])

    def close_rung(self, bracket: SyncBracket, fresh: int) -> None:
        if not bracket.members or any(trial not in bracket.results for trial in bracket.members):
            return
        if bracket.rung == 0 and bracket.started < bracket.planned and fresh > 0:
            return
        if bracket.rung == 0:
            bracket.planned = bracket.started
        share = max(1, len(bracket.members) // self.eta)
        finite = sorted((r.score, r.trial) for r in bracket.results.values() if r.score != math.inf)
        best = [trial for _, trial in finite[:share]]
        last = bracket.rung == len(bracket.budgets) - 1
        bracket.members = [] if last else [trial for trial in best if not bracket.results[trial].over]
        bracket.results, bracket.issued = {}, []
        bracket.rung += 1


def halving_reference(max_t: int, grace: int, eta: int, trials: int | None = None) -> SynchronousReference:
    budgets = rungs(grace, max_t, eta)
    return SynchronousReference([(trials or eta ** (len(budgets) - 1), budgets)], eta)


def hyperband_reference(R: int, eta: int) -> SynchronousReference:
    s_max = max(s for s in range(40) if eta**s <= R)
    plans = []
    for s in range(s_max, -1, -1):
        n = math.ceil((s_max + 1) * eta**s / (s + 1))
        r = [R // eta ** (s - i) for i in range(s + 1)]
        plans.append((n, r))
    return SynchronousReference(plans, eta)


def median_verdict(own: list[float], others: list[list[float]], min_samples: int) -> bool:
    """Whether a trial with these scores goes on, by Golovin et al., section 3.2.2. `others`: up to the same step."""
    if len(others) < min_samples:
        return True
    averages = sorted(sum(scores) / len(scores) for scores in others)
    n = len(averages)
    middle = averages[n // 2] if n % 2 else (averages[n // 2 - 1] + averages[n // 2]) / 2
    return not min(own) > middle
