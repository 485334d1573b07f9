"""Which routes and policies are in force: read, checked, prepared on every classifier, then swapped in by one assignment."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from guardrail import routing
from guardrail.config.check import require
from guardrail.config.losses import loss_findings
from guardrail.config.models import Config
from guardrail.errors import ClassifierError, ConfigError, DocumentError, Finding, PolicyError
from guardrail.events import EventFanout, PoliciesPublished, PoliciesRefused
from guardrail.interfaces import Classifier
from guardrail.policy.lint import lint
from guardrail.policy.registry import Sources
from guardrail.policy.sets import PolicySets
from guardrail.policy.watch import State, Watched, watch
from guardrail.routing import RouteTable
from guardrail.types import Policy
from guardrail.verdict_cache import VerdictCache

logger = logging.getLogger("guardrail")


class Publisher:
    """Holds the table in force. A reader sees one generation whole: `table` is one attribute, and what it holds never changes.

    `always` is a policy that the named classifier must hold beside those of its routes (its canary's). `cache` forgets what was said of
    policies that are not in force any more.
    """

    def __init__(
        self,
        config: Config,
        classifiers: Mapping[str, Classifier],
        events: EventFanout,
        *,
        always: Mapping[str, Policy],
        cache: VerdictCache | None = None,
    ) -> None:
        self._config = config
        self._cache = cache
        self._sources = sources_of(config)
        self._classifiers = classifiers
        self._events = events
        self._always = always
        self._publishing = asyncio.Lock()
        self._seen: State | None = None
        self._place = ""
        self._told: tuple[Finding, ...] = ()
        self._warned: tuple[Finding, ...] = ()
        self.table: RouteTable | None = None
        self.sets = PolicySets()
        self.refused = False
        """True while the files hold something that could not be used, so that what is in force is older than what is written."""

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """What is wrong with the files, while they are refused."""
        return self._told

    @property
    def generation(self) -> int:
        """How many times something was published."""
        return self.sets.generation

    async def publish(self) -> bool:
        """Put what the files say into force; False when that is in force already.

        Raises DocumentError or ClassifierError, and then everything stays as it was.
        """
        async with self._publishing:
            self._place = "<policies>"
            self._seen = await asyncio.to_thread(self._watched.state)
            sets, warnings = await asyncio.to_thread(self._load)
            if self.table is not None and sets.digest == self.sets.digest:
                return False
            sets = sets.at(self.generation + 1)
            table = routing.compile(self._config, sets, sets.generation, sets.short_digest)
            for name, classifier in self._classifiers.items():
                self._place = f"<classifier {name}>"
                await classifier.prepare(self._resident(name, table))
            self.sets = sets
            self.table = table
            self._warn(warnings)
            if self._cache is not None:
                tried = frozenset(policy.key for policy in sets.candidates.values())
                owned = {name: sets.for_tenant(name).values() for name in self._config.tenant_names}
                self._cache.keep({name: tried | {policy.key for policy in policies} for name, policies in owned.items()})
        self._events.emit(PoliciesPublished(sets.generation, len(sets.distinct())))
        return True

    def resident(self, classifier: str) -> tuple[Policy, ...]:
        """What a classifier has to keep ready, whatever else it is asked about: the policies in force and its known pair's."""
        return self._resident(classifier, self.table) if self.table is not None else ()

    def _resident(self, classifier: str, table: RouteTable) -> tuple[Policy, ...]:
        always = self._always.get(classifier)
        return (*table.policies_of(classifier), *((always,) if always is not None else ()))

    async def reload(self) -> bool:
        """As `publish`, but nothing is raised: the fault is told to the observers once, and the last good generation stays.

        True: published. `refused` says whether it should be tried again; the fault may pass without a change of the files.
        """
        try:
            published = await self.publish()
        except DocumentError as error:
            self._refuse(error.findings)
        except ClassifierError as error:
            self._refuse((Finding(self._place, 0, error.code, f"the new policies could not be prepared: {error}"),))
        except Exception as error:  # border: a classifier is foreign code, and no fault may end the reloading
            logger.exception("reloading the policies failed at %s", self._place)
            self._refuse((Finding(self._place, 0, "crash", f"the new policies could not be loaded: {type(error).__name__}"),))
        else:
            self.refused, self._told = False, ()
            return published
        return False

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload after each change of the policy files, and again while they are refused, until `stop` is set."""
        await watch(self._watched, self._taken, stop=stop, since=self._seen)

    async def _taken(self) -> bool:
        await self.reload()
        return not self.refused

    @property
    def _watched(self) -> Watched:
        return Watched(self._sources.folders, tuple(self._sources.candidates.values()))

    def _load(self) -> tuple[PolicySets, list[Finding]]:
        """The policies as they are written now, and the warnings about them. What would leave nothing to judge by is an error."""
        sets = load_sets(self._sources)
        if emptied := self._sources.emptied(self.sets, sets):
            raise PolicyError(emptied)
        warnings = require(self._config, sets)
        lost = list(loss_findings(self._config, self.sets, sets))
        if errors := [finding for finding in lost if finding.severity == "error"]:
            raise ConfigError(errors)
        return sets, warnings + lost

    def _warn(self, warnings: Sequence[Finding]) -> None:
        """Log what was not logged of the generation before."""
        for warning in warnings:
            if warning not in self._warned:
                logger.warning("%s", warning)
        self._warned = tuple(warnings)

    def _refuse(self, findings: tuple[Finding, ...]) -> None:
        self.refused = True
        if findings == self._told:
            return
        self._told = findings
        for finding in findings:
            logger.error("refused, the last good policies stay in force: %s", finding)
        self._events.emit(PoliciesRefused(self.generation, findings))


def sources_of(config: Config) -> Sources:
    """Where a configuration's policies lie."""
    return Sources(config.policies.shipped, config.policy_folder, config.tenant_folders, config.candidates)


def load_sets(sources: Sources) -> PolicySets:
    """The policies as they are written now. Raises PolicyError for what does not parse, and for what lint calls an error."""
    sets = sources.load()
    if faults := [finding for policy in sets.distinct() for finding in lint(policy) if finding.severity == "error"]:
        raise PolicyError(faults)
    return sets
