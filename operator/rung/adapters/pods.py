"""The one thing that Rung writes on pods: the condition that their readiness gate asks for."""

from __future__ import annotations

from datetime import UTC, datetime

from rung.adapters.kubernetes_calls import ApiPart

SERVING = "rung.dev/serving"
"""The condition, and the name of the readiness gate."""
_STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class Pods(ApiPart):
    """The pods of one API server."""

    async def set_serving(self, namespace: str, name: str, uid: str, message: str = "", *, serving: bool) -> None:
        """Say whether requests may come to this very pod; `message` says why not.

        Raises NotFound, Conflict when another pod has that name now, Refused, Unavailable.
        """
        condition = {
            "type": SERVING,
            "status": "True" if serving else "False",
            "reason": "Serving" if serving else "NotServing",
            "message": message[:1000],
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        patch = {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        what = f"setting {SERVING} of pod {namespace}/{name}"
        await self._send(what, "PATCH", path, body=patch, content_type=_STRATEGIC_MERGE)
