"""For .ci/schemathesis: a request that is held long tells no more than one that is held for a second, and
most tell as much that are not held."""

import schemathesis

WAIT_SECONDS_MAX = 60


@schemathesis.hook
def before_call(context, case, kwargs):
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int) and 0 < wait <= WAIT_SECONDS_MAX:
        case.query["wait"] = 1 if wait % 4 == 0 else 0
