"""What is attested of a build's outcome: provenance and bill of materials, as they were asked for."""

import secrets
import time
from collections.abc import Mapping, Sequence

from scow.build import provenance, sbom
from scow.build.attestation import Predicate, Request
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile
from scow.build.image_state import ImageState, format_created
from scow.build.provenance import Facts, Material, make_provenance
from scow.build.sbom import make_sbom
from scow.build.tools import Options
from scow.oci.platform import host_platform
from scow.store.store import Store


class Statements:
    """Makes the statements on the outcomes of one build that began at `began`, seconds since the epoch."""

    def __init__(
        self, store: Store, asked: Mapping[str, Request], file: Dockerfile, context: Context, name: str, began: float
    ) -> None:
        self._store = store
        self._asked = asked
        self._file = file
        self._context = context
        self._name = name
        self._began = began

    async def make(self, state: ImageState, options: Options, materials: Sequence[Material]) -> tuple[Predicate, ...]:
        """All that was asked for, on one image. Hold a lease around it."""
        made = []
        if "sbom" in self._asked:
            epoch = options.epoch
            created = format_created((int(time.time()) if epoch is None else epoch) * 1_000_000_000)
            name = self._name or state.id
            made.append(await make_sbom(self._store, state.diff_ids, name=name, image=state.id, created=created))
        if (asked := self._asked.get("provenance")) is not None:
            made.append(self.provenance(state, options, materials, asked.options))
        return tuple(made)

    def provenance(
        self,
        state: ImageState,
        options: Options,
        materials: Sequence[Material],
        wanted: Mapping[str, str],
    ) -> Predicate:
        """How one image came to be."""
        given = options.epoch is not None
        facts = Facts(
            source=self._context.material,
            dockerfile=self._file.name,
            content="".join(self._file.source).encode("utf-8", "surrogateescape"),
            target=options.target,
            build_args=options.build_args,
            labels=options.labels,
            secrets=tuple(options.secrets),
            agents=tuple(options.agents),
            platform=state.platform,
            builder=host_platform(),
            materials=materials,
            steps=tuple(step.created_by for step in state.history),
            # With a time that is given nothing may differ between two runs.
            invocation=state.id.partition(":")[2][:32] if given else secrets.token_hex(16),
            started_at=None if given else self._began,
            ended_at=None if given else time.time(),
        )
        return make_provenance(facts, wanted)


def check(asked: Mapping[str, Request]) -> None:
    """Raise InvalidArgument for options that an attestation doesn't have."""
    for type, request in asked.items():
        (provenance if type == "provenance" else sbom).check_options(request.options)
