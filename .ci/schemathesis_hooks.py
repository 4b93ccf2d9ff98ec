"""For .ci/schemathesis: a request that is held long tells no more than one that is held a second."""

import schemathesis

WAIT_SECONDS_MAX = 1


@schemathesis.hook
def before_call(context, case, kwargs):
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int) and WAIT_SECONDS_MAX < wait <= 60:
        case.query["wait"] = WAIT_SECONDS_MAX
