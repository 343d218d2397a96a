"""Finds objects that were deleted while no watch could tell of it, and takes them out of the view.

When a watch was broken for too long, kopf lists the objects again: it learns of those that are there, and keeps in its
indices those that are not. So once in a while the operator compares what is indexed with what there is.
"""

from __future__ import annotations

import logging

from rung.adapters.kubernetes import Cluster, KubernetesError
from rung.control.view import ClusterView

logger = logging.getLogger(__name__)


async def sweep(view: ClusterView, cluster: Cluster) -> None:
    """Compare each kind in each namespace where something is indexed; what can't be listed now is left as it is.

    An object is gone when it was indexed before the list was asked for and is not in it: a newer one never is.
    """
    for (plural, namespace), indexed in view.uids().items():
        try:
            listed = await cluster.list_uids(plural, namespace)
        except KubernetesError as error:
            logger.debug("What is indexed is not compared with what there is: %s", error)
            continue
        gone = indexed - listed - view.gone
        if gone:
            where = f" in namespace {namespace}" if namespace else ""
            logger.info("%d %s%s ended while no watch told of it", len(gone), plural, where)
        view.gone.difference_update(indexed & listed)
        view.gone.update(gone)
